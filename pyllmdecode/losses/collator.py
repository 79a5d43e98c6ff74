"""Batches for training against repetition, as `transformers.Trainer` takes them."""

import random
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from ..checks import integer
from . import checks
from .ditto import ditto_repeat
from .sentences import split_sentences


class Collator:
    """Texts to tensors; some batches are repeated sentences, for `ditto` (Xu et al. 2022 take half of them).

    tokenizer: one of transformers. max_length: tokens of a sequence. ditto_share: how many of the batches, in [0, 1].
    seed: of the choice of batches and sentences.

    Called with a list of {"text": str}. Of texts: input_ids, attention_mask and labels [B, L], padded on the right to
    the longest, with -100 as label of padding. Of repetitions: input_ids [B, max_length] with sentence_lengths and
    prefix_lengths [B]; a sentence of each text is repeated after the one before it. A text without two sentences that
    fit gives its first tokens.
    """

    def __init__(self, tokenizer, max_length: int, *, ditto_share: float = 0.5, seed: int = 0):
        self.tokenizer = tokenizer
        self.max_length = integer("max_length", max_length, "an integer >= 8", 8)
        self.ditto_share = checks.number("ditto_share", ditto_share, 0, 1)
        self._draw = random.Random(seed)

    def __call__(self, examples: Sequence[Mapping[str, str]]) -> dict[str, Tensor]:
        for index, example in enumerate(examples):
            if not isinstance(example, Mapping) or not isinstance(example.get("text"), str):
                raise TypeError(f"examples[{index}]: got {example!r:.60}; accepted: a mapping with a text under 'text'")
        repeats = self._draw.random() < self.ditto_share
        return (self._repetitions if repeats else self._texts)([example["text"] for example in examples])

    def _ids(self, text: str) -> list[int]:
        return list(self.tokenizer(text, add_special_tokens=False)["input_ids"])

    def _texts(self, texts: list[str]) -> dict[str, Tensor]:
        rows = [list(self.tokenizer(text)["input_ids"])[: self.max_length] for text in texts]
        length = max(map(len, rows))
        return {
            "input_ids": torch.tensor([row + [0] * (length - len(row)) for row in rows]),
            "attention_mask": torch.tensor([[1] * len(row) + [0] * (length - len(row)) for row in rows]),
            "labels": torch.tensor([row + [checks.IGNORE_INDEX] * (length - len(row)) for row in rows]),
        }

    def _repetitions(self, texts: list[str]) -> dict[str, Tensor]:
        made = [ditto_repeat(sentence, self.max_length, prefix=prefix) for prefix, sentence in map(self._pair, texts)]
        return {
            "input_ids": torch.tensor([one.token_ids for one in made]),
            "sentence_lengths": torch.tensor([one.sentence_length for one in made]),
            "prefix_lengths": torch.tensor([one.prefix_length for one in made]),
        }

    def _pair(self, text: str) -> tuple[list[int], list[int]]:
        """A sentence and the next one, so short that there is room for it to repeat itself."""
        room = self.max_length // 2
        sentences = [self._ids(" " * bool(n) + one) for n, one in enumerate(split_sentences(text))]
        pairs = [pair for pair in zip(sentences, sentences[1:]) if sum(map(len, pair)) <= room and pair[1]]
        return self._draw.choice(pairs) if pairs else ([], self._ids(text)[:room] or [0])

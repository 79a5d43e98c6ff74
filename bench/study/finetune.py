"""Fine-tunes SmolLM2 with a loss against repetition: one step of each kind, all over the fused losses."""

import random

import torch

from pyllmdecode import SamplingParams, losses
from pyllmdecode.cli.generate import generate
from pyllmdecode.losses import split_sentences

METHODS = ("cross-entropy", "unlikelihood", "ditto", "scalegrad", "simctg")
PREFIX, CONTINUATION = 40, 60  # tokens, of the sequence level of unlikelihood


class Trainer:
    """length: tokens of a sequence; batch: sequences of a step. Half of the steps of unlikelihood are of continuations
    that the model writes itself, half of those of DITTO are of repeated sentences, as in their papers.
    """

    def __init__(self, model, tokenizer, text: str, method: str, *, length: int, batch: int, rate: float, seed: int):
        self.model, self.tokenizer, self.method = model, tokenizer, method
        self.length, self.batch, self.draw = length, batch, random.Random(seed)
        self.ids = torch.tensor(tokenizer(text)["input_ids"])
        sentences = (tokenizer(" " + one)["input_ids"] for one in split_sentences(text[:100_000]))
        self.sentences = [ids for ids in sentences if 6 <= len(ids) <= 40]
        self.optimizer = torch.optim.AdamW(model.parameters(), lr=rate, weight_decay=0.0)
        self.weight = model.get_output_embeddings().weight

    def step(self, number: int) -> float:
        self.model.train()
        loss = self._loss(odd=number % 2 == 1)
        self.optimizer.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(self.model.parameters(), 1.0)
        self.optimizer.step()
        return float(loss.detach())

    def _loss(self, odd: bool):
        if self.method == "unlikelihood" and odd:
            return self._of_continuations()
        if self.method == "ditto" and odd:
            return self._of_repetitions()
        ids = self._windows(self.length + 1)
        hidden, targets = self._hidden(ids[:, :-1]), ids[:, 1:]
        if self.method == "scalegrad":
            return losses.linear_scalegrad(hidden, self.weight, targets, gamma=0.2)
        loss = losses.linear_unlikelihood(hidden, self.weight, targets, alpha=float(self.method == "unlikelihood"))
        if self.method == "simctg":
            loss = loss + losses.simctg(hidden, torch.ones_like(targets), margin=0.5)
        return loss

    def _of_continuations(self):
        prompts = self._windows(PREFIX, 2 * self.batch)
        self.model.eval()
        greedy = SamplingParams(temperature=0.0, eos_token_ids=[self.model.config.vocab_size - 1])
        made = generate(self.model, self.tokenizer, prompts.tolist(), greedy, max_new_tokens=CONTINUATION).token_ids
        self.model.train()
        ids = torch.tensor([[*prompt, *own] for prompt, own in zip(prompts.tolist(), made)])
        lengths = torch.full((len(ids),), PREFIX)
        return losses.linear_sequence_unlikelihood(self._hidden(ids), self.weight, ids, lengths, n=4)

    def _of_repetitions(self):
        data = []
        for _ in range(self.batch):
            prefix, sentence = self.draw.choice(self.sentences), self.draw.choice(self.sentences)
            data.append(losses.ditto_repeat(sentence, self.length, prefix=prefix))
        ids = torch.tensor([one.token_ids for one in data])
        sizes = [torch.tensor([one[part] for one in data]) for part in (1, 2)]
        return losses.linear_ditto(self._hidden(ids), self.weight, ids, *sizes, penalty=0.5)

    def _windows(self, length: int, count: int | None = None):
        begins = [self.draw.randrange(len(self.ids) - length) for _ in range(count or self.batch)]
        return torch.stack([self.ids[begin : begin + length] for begin in begins])

    def _hidden(self, ids):
        return self.model.model(ids, use_cache=False).last_hidden_state

"""Between text and token ids, for the command line and the demo."""

import contextlib
import importlib.util
import io
from collections.abc import Sequence

CONTEXT = 8  # ids before a token that are enough to tell what it looks like in the middle of a text


class TextStream:
    """Token ids to text, piece by piece; the pieces add up to the decoded whole.

    `push` and `flush` return the text that is now certain: half a character is held back until the rest of it comes.
    `context` are ids that went before, so that a leading space is seen as one.
    """

    def __init__(self, tokenizer, context: Sequence[int] = ()):
        self._tokenizer = tokenizer
        self._ids = list(context)[-CONTEXT:]
        self._shown = self._decode()

    def push(self, token: int) -> str:
        self._ids.append(token)
        text = self._decode()
        if text.endswith("\ufffd"):  # an unfinished character
            return ""
        return self._advance(text)

    def flush(self) -> str:
        return self._advance(self._decode())

    def _decode(self) -> str:
        return self._tokenizer.decode(self._ids, skip_special_tokens=True, clean_up_tokenization_spaces=False)

    def _advance(self, text: str) -> str:
        piece = text[len(self._shown) :]
        self._ids = self._ids[-CONTEXT:]
        self._shown = self._decode()
        return piece


def to_text(tokenizer, token_ids: Sequence[int], context: Sequence[int] = ()) -> str:
    stream = TextStream(tokenizer, context)
    return "".join([stream.push(token) for token in token_ids]) + stream.flush()


def prompt_ids(tokenizer, text: str, chat: bool) -> list[int]:
    if not chat:
        return list(tokenizer(text)["input_ids"])
    if not getattr(tokenizer, "chat_template", None):
        raise ValueError("chat: the tokenizer of this model has no chat template; accepted: models that have one")
    message = [{"role": "user", "content": text}]
    text = tokenizer.apply_chat_template(message, tokenize=False, add_generation_prompt=True)
    return list(tokenizer(text, add_special_tokens=False)["input_ids"])  # the template writes the special tokens itself


def load_quietly(folder: str | None = None):
    """`load_model` without the warnings and bars of transformers; for the process of a command only."""
    from .generate import load_model

    with contextlib.redirect_stderr(io.StringIO()):  # the bar of its GGUF reader has no switch
        if importlib.util.find_spec("transformers") is not None:
            from transformers.utils import logging

            logging.set_verbosity_error()
        return load_model(folder)

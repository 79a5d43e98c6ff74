"""Between text and token ids, for the command line and the demo."""

from collections.abc import Sequence

CONTEXT = 8  # ids before a token that are enough to tell what it looks like in the middle of a text


class TextStream:
    """Token ids to text, piece by piece; the pieces add up to the decoded whole, or to what is before a stop text.

    `push` and `flush` return the text that is now certain: half a character is held back until the rest of it comes,
    and so is what may be the beginning of one of `stops`. Of several that occur, the one that is complete first counts,
    and of those the longest. Once that is so, `stopped` is true and nothing more comes.
    `context` are ids that went before, so that a leading space is seen as one.
    """

    def __init__(self, tokenizer, context: Sequence[int] = (), stops: Sequence[str] = ()):
        self._tokenizer, self._context, self._stops = tokenizer, list(context)[-CONTEXT:], stops
        self.restart()

    def restart(self) -> None:
        """As if nothing had been pushed."""
        self._ids = list(self._context)
        self._shown = self._decode()
        self._held = ""
        self.stopped = False

    def push(self, token: int) -> str:
        self._ids.append(token)
        text = self._decode()
        if text.endswith("\ufffd"):  # an unfinished character
            return ""
        return self._certain(self._advance(text))

    def flush(self) -> str:
        piece = self._certain(self._advance(self._decode()))
        rest, self._held = self._held, ""
        return piece + rest

    def _decode(self) -> str:
        return self._tokenizer.decode(self._ids, skip_special_tokens=True, clean_up_tokenization_spaces=False)

    def _advance(self, text: str) -> str:
        piece = text[len(self._shown) :]
        self._ids = self._ids[-CONTEXT:]
        self._shown = self._decode()
        return piece

    def _certain(self, piece: str) -> str:
        if self.stopped:
            return ""
        text = self._held + piece
        found = [(at + len(stop), at) for stop in self._stops if (at := text.find(stop)) >= 0]
        if found:
            self.stopped, self._held = True, ""
            return text[: min(found)[1]]
        begun = [k for stop in self._stops for k in range(1, len(stop)) if text.endswith(stop[:k])]
        certain = len(text) - max(begun, default=0)
        self._held = text[certain:]
        return text[:certain]


def to_text(tokenizer, token_ids: Sequence[int], context: Sequence[int] = ()) -> str:
    stream = TextStream(tokenizer, context)
    return "".join([stream.push(token) for token in token_ids]) + stream.flush()


def prompt_ids(tokenizer, text: str, chat: bool) -> list[int]:
    if not chat:
        return list(tokenizer(text)["input_ids"])
    if not getattr(tokenizer, "chat_template", None):
        raise ValueError("chat: the tokenizer of this model has no chat template; accepted: models that have one")
    message = [{"role": "user", "content": text}]
    try:
        text = tokenizer.apply_chat_template(message, tokenize=False, add_generation_prompt=True)
    except Exception as error:  # a template is a program that came with the model
        raise ValueError(f"chat: the chat template of this model cannot be filled in: {error}") from error
    return list(tokenizer(text, add_special_tokens=False)["input_ids"])  # the template writes the special tokens itself

"""What a command prints: texts to standard output, notes to standard error."""

import contextlib
import json
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field

import pyllmdecode as pld

from .text import TextStream


def note(text: str) -> None:
    """A line on standard error, if anybody reads that."""
    if sys.stderr is not None:  # else print would take standard output
        with contextlib.suppress(OSError):
            print(text, file=sys.stderr, flush=True)


class Output:
    """Standard output in whatever encoding it has. `escaped`: it could not write a character, and wrote its number."""

    def __init__(self):
        self.escaped = False

    def write(self, text: str) -> None:
        encoding = sys.stdout.encoding or "utf-8"
        try:
            text.encode(encoding)
        except UnicodeEncodeError:
            self.escaped = True
            text = text.encode(encoding, "backslashreplace").decode(encoding)
        print(text, end="", flush=True)


@dataclass
class Request:
    """One text that is asked for, and what there is of it."""

    number: int
    prompt_index: int
    prompt: str
    prompt_ids: list[int]
    params: pld.SamplingParams
    stream: TextStream
    text: str = ""
    token_ids: list[int] = field(default_factory=list)
    finish_reason: str | None = None
    logprobs: list[dict] = field(default_factory=list)  # of each token, where they are asked for

    def record(self) -> dict:
        """What --json prints. The ids are all that were drawn, those of a stop text or an eos included."""
        names = ("prompt", "text", "finish_reason", "token_ids", "prompt_ids")
        said = {"logprobs": self.logprobs} if self.logprobs else {}
        return {**{name: getattr(self, name) for name in names}, **said, "seed": self.params.seed}


class Writer:
    """Prints the texts of a batch in their order, each as soon as it and those before it have ended.

    headings: a line with the prompt before each. live: token by token, for a single text.
    """

    def __init__(self, output: Output, batch: Sequence[Request], *, headings: bool, live: bool, as_json: bool):
        self._output, self._batch, self._next = output, batch, 0
        self._headings, self._live, self._as_json = headings, live, as_json

    def step(self, rows: list[int], output: pld.SampleOutput) -> None:
        """Take in what is known of the tokens that come next."""
        if output.logprobs is None and output.top_ids is None:
            return
        columns = {name: getattr(output, name) for name in ("logprobs", "raw_logprobs", "ranks")}
        named = {"logprobs": "logprob", "raw_logprobs": "raw_logprob", "ranks": "rank"}
        for place, row in enumerate(rows):
            if output.token_ids[place] < 0:
                continue
            said = {named[name]: column[place].item() for name, column in columns.items() if column is not None}
            if output.top_ids is not None:
                pairs = zip(output.top_ids[place].tolist(), output.top_logprobs[place].tolist())
                said["top"] = [[token, value] for token, value in pairs if token >= 0]
            self._batch[row].logprobs.append(said)

    def token(self, row: int, token: int) -> bool:
        """Take in a token; true where the text ends before a stop text."""
        request = self._batch[row]
        request.token_ids.append(token)
        self._grow(request, request.stream.push(token))
        return request.stream.stopped

    def rewind(self, row: int, n: int) -> None:
        """Take back a text's last n tokens. Not of a live one."""
        request = self._batch[row]
        kept = len(request.token_ids) - n
        del request.token_ids[kept:], request.logprobs[kept:]
        request.stream.restart()
        request.text = "".join([request.stream.push(token) for token in request.token_ids])

    def end(self, row: int, reason: str) -> None:
        request = self._batch[row]
        self._grow(request, request.stream.flush())
        request.finish_reason = "stop" if request.stream.stopped else reason
        while self._next < len(self._batch) and self._batch[self._next].finish_reason:
            self._print(self._batch[self._next])
            self._next += 1

    def _grow(self, request: Request, piece: str) -> None:
        request.text += piece
        if self._live and piece:
            self._output.write(piece)

    def _print(self, request: Request) -> None:
        if self._as_json:
            self._output.write(json.dumps(request.record()) + "\n")
        else:
            between = "\n" if request.number else ""
            heading = f"{between}>>> {request.prompt}\n" if self._headings else ""
            self._output.write(heading + ("" if self._live else request.text) + "\n")
        if request.finish_reason == "empty":
            after = f"after {len(request.token_ids)} tokens"
            banned = "every token is banned or -inf (EMPTY_ROW)"
            note(f"prompts[{request.prompt_index}]: {after} {banned}; the text ends there")

"""The prompts of a command: its arguments, standard input, files of lines."""

import json
import reprlib
import sys
from collections.abc import Sequence
from pathlib import Path

STDIN = "-"


def read_prompts(texts: Sequence[str], files: Sequence[str]) -> list[str]:
    """All prompts, those of the files last; ValueError where one cannot be had or there is none.

    A text "-" stands for standard input as one prompt, less the line break at its end. A file, or "-", has one prompt a
    line, as text or, where its name ends in .jsonl, as JSON objects with "prompt"; empty lines do not count.
    """
    if [*texts, *files].count(STDIN) > 1:
        raise ValueError("prompt: got - more than once; accepted: once, as standard input is read once")
    prompts = [_standard_input() if text == STDIN else text for text in texts]
    for file in files:
        prompts += _lines(file)
    if not prompts:
        raise ValueError("prompt: got none; accepted: --prompt TEXT, --prompt - (standard input) or --prompt-file FILE")
    for index, prompt in enumerate(prompts):
        require_text(f"prompts[{index}]", prompt)
    return prompts


def require_text(name: str, text: str) -> None:
    """ValueError for half a surrogate pair, which is what Python makes of arguments that are not UTF-8."""
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise ValueError(f"{name}: got {text[error.start]!r} in it; accepted: text in UTF-8") from None


def _standard_input() -> str:
    text = read_text(STDIN, "prompt").removesuffix("\n")
    if not text:
        raise ValueError("prompt: got nothing on standard input; accepted: a text")
    return text


def _lines(file: str) -> list[str]:
    lines = read_text(file, "prompt-file").split("\n")
    numbered = [(number, line) for number, line in enumerate(lines, 1) if line.strip()]
    if not numbered:
        raise ValueError(f"prompt-file: {file} has no prompts; accepted: one a line")
    if not file.endswith(".jsonl"):
        return [line for _, line in numbered]
    return [_prompt_of(line, f"prompt-file: {file}, line {number}") for number, line in numbered]


def _prompt_of(line: str, where: str) -> str:
    try:
        found = json.loads(line)
    except (ValueError, RecursionError):
        found = None
    prompt = found.get("prompt") if isinstance(found, dict) else None
    if not isinstance(prompt, str):
        raise ValueError(f'{where}: got {reprlib.repr(line)}; accepted: a JSON object with a string "prompt"')
    return prompt


def read_text(file: str, field: str) -> str:
    """All of a file, or of standard input for "-"; ValueError, about `field`, where that cannot be read as UTF-8."""
    name = "standard input" if file == STDIN else file
    try:
        if file != STDIN:
            raw = Path(file).read_bytes()
        elif sys.stdin is None:
            raise OSError(0, "it is closed")
        else:
            raw = sys.stdin.buffer.read()
        return raw.decode("utf-8-sig").replace("\r\n", "\n")
    except UnicodeDecodeError as error:
        found = f"got the byte 0x{raw[error.start]:02x} at {error.start}"
        raise ValueError(f"{field}: {name}: {found}; accepted: text in UTF-8") from None
    except OSError as error:
        raise ValueError(f"{field}: {name} cannot be read: {error.strerror or error}") from None

"""`pyllmdecode repetition` and `pyllmdecode dedupe`: what repeats itself in texts, and texts without it."""

import argparse
import json
import os
import sys
from typing import NamedTuple

from pyllmdecode.detection import RepetitionDetection
from pyllmdecode.repetition import dedupe, dedupe_ids, detect, metrics
from pyllmdecode.repetition.pieces import Pieces, words

from .prompts import STDIN, read_text
from .writer import Output, note

NGRAM = 4  # words or token ids in a row that are marked where they come again
LOOP = RepetitionDetection(256, min_count=3)
RED, PLAIN = "\033[31m", "\033[0m"
BEGIN, END = "[[", "]]"  # where there are no colours


class Item(NamedTuple):
    """A text of a file, or token ids."""

    name: str
    value: str | list[int]
    record: dict | None  # the line of JSON that it stands in


def run_repetition(args: argparse.Namespace, output: Output) -> None:
    """Print the metrics of each text, and the texts with what repeats itself marked."""
    items = [item for file in args.files for item in read_items(file)]
    output.write(f"{'':<24}{'words':>8}{'rep-2':>8}{'rep-4':>8}{'diversity':>11}{'distinct':>10}  loop\n")
    for item in items:
        ids = units(item.value)[1]
        found = detect(ids, LOOP)
        loop = f"of {found.loop_period[found.first - 1]}, from {found.first} on" if found.first else "-"
        row = f"{metrics.rep_n([ids], 2):>8.3f}{metrics.rep_n([ids], 4):>8.3f}{metrics.diversity([ids]):>11.3f}"
        name = item.name if len(item.name) < 24 else "…" + item.name[-22:]
        output.write(f"{name:<24}{len(ids):>8}{row}{metrics.uniq_seq([ids]):>10}  {loop}\n")
    if args.metrics:
        return
    colours = in_colour(args)
    for item in items:
        output.write(f"\n>>> {item.name}\n" if len(items) > 1 else "\n")
        text = marked(item.value, colours)
        lines = text.split("\n")
        shown = lines if not args.lines else lines[: args.lines]
        output.write("\n".join(shown) + "\n")
        if len(shown) < len(lines):
            output.write(f"... {len(lines) - len(shown)} more lines (--lines 0 shows all)\n")


def run_dedupe(args: argparse.Namespace, output: Output) -> None:
    """Print each text without its repetitions, or with these marked."""
    colours = in_colour(args)
    of, gone, number = 0, 0, 0
    options = {"keep": args.keep, "max_size": args.max_size, "near": args.near}
    for file in args.files:
        for item in read_items(file):
            if isinstance(item.value, str):
                found = dedupe(item.value, phrases=args.phrases, seen=not args.blocks_only, **options)
            else:
                found = dedupe_ids(item.value, min_count=max(2, args.phrases), **options)
            spans = [(start, stop) for start, stop, _ in found.removed]
            of, number = of + len(item.value), number + len(spans)
            gone += sum(stop - start for start, stop in spans)
            if args.show and isinstance(item.value, str):
                output.write(emphasised(item.value, spans, colours) + "\n")
            elif item.record is not None:
                field = "text" if isinstance(item.value, str) else "token_ids"
                removed = [span._asdict() for span in found.removed]
                output.write(json.dumps({**item.record, field: found.kept, "removed": removed}) + "\n")
            else:
                output.write(found.kept)
    share = f" ({gone / of:.0%})" if of else ""
    note(f"[{number} parts taken out, {gone} of {of}{share} characters or ids]")


def read_items(file: str) -> list[Item]:
    """The texts of a file: the whole file, or of a .jsonl file those of its lines, "text" or else "token_ids".

    ValueError for what is no text in UTF-8, or no such line.
    """
    text = read_text(file, "file")
    name = "standard input" if file == STDIN else file
    if not file.endswith(".jsonl"):
        return [Item(name, text, None)]
    numbered = [(number, line) for number, line in enumerate(text.split("\n"), 1) if line.strip()]
    return [_item(f"{file}:{number}", line) for number, line in numbered]


def _item(name: str, line: str) -> Item:
    try:
        record = json.loads(line)
    except (ValueError, RecursionError):
        record = None
    if isinstance(record, dict):
        text, ids = record.get("text"), record.get("token_ids")
        if isinstance(text, str):
            return Item(name, text, record)
        if isinstance(ids, list) and all(type(token) is int and 0 <= token < 2**63 for token in ids):
            return Item(name, ids, record)
    accepted = 'a JSON object with a string "text", or with "token_ids", integers >= 0'
    raise ValueError(f"file: {name}: got {line[:60]!r}; accepted: {accepted}")


def units(value: str | list[int]) -> tuple[Pieces | None, list[int]]:
    """The words of a text with a number for each, or the ids as they are."""
    if not isinstance(value, str):
        return None, value
    pieces = words(value)
    return pieces, pieces.ids.tolist()


def marked(value: str | list[int], colours: bool) -> str:
    """With every n-gram that stood there before emphasised."""
    pieces, ids = units(value)
    seen, again = set(), [False] * len(ids)
    for end in range(NGRAM, len(ids) + 1):
        gram = tuple(ids[end - NGRAM : end])
        if gram in seen:
            again[end - NGRAM : end] = [True] * NGRAM
        seen.add(gram)
    if pieces is None:
        value = " ".join(map(str, ids))
        pieces = words(value)
    spans: list[tuple[int, int]] = []
    for index, repeated in enumerate(again):
        if repeated:
            begin, end = int(pieces.begins[index]), int(pieces.ends[index])
            if spans and index and again[index - 1]:
                begin = spans.pop()[0]
            spans.append((begin, end))
    return emphasised(value, spans, colours)


def emphasised(text: str, spans: list[tuple[int, int]], colours: bool) -> str:
    begin, end = (RED, PLAIN) if colours else (BEGIN, END)
    parts, at = [], 0
    for start, stop in spans:
        part = text[start:stop]
        if colours:  # a pager forgets colours at the end of a line
            part = part.replace("\n", f"{PLAIN}\n{RED}")
        parts += [text[at:start], begin, part, end]
        at = stop
    return "".join([*parts, text[at:]])


def in_colour(args: argparse.Namespace) -> bool:
    """As --color says; "auto" is yes at a terminal, unless NO_COLOR is set (no-color.org)."""
    if args.color != "auto":
        return args.color == "always"
    return sys.stdout.isatty() and not os.environ.get("NO_COLOR") and os.environ.get("TERM") != "dumb"

"""Sentences of a text in any script."""

import unicodedata
from collections.abc import Iterator

# Where a sentence may end, in any script: what Unicode calls sentence terminals, of those in wide use.
TERMINALS = frozenset(".!?…。！？｡؟۔।॥։။៖።፧᠃᠉꓿")
CLOSING = ("Pe", "Pf", "Po")  # brackets and quotation marks that may follow


def split_sentences(text: str) -> Iterator[str]:
    """The sentences of a text in any script, one after another, without the space around them."""
    begin, at = 0, 0
    while at < len(text):
        at += 1
        if text[at - 1] in TERMINALS:
            while at < len(text) and (text[at] in TERMINALS or unicodedata.category(text[at]) in CLOSING):
                at += 1
            # A full stop ends a sentence where a space follows; marks of scripts without spaces always do.
            if at == len(text) or text[at].isspace() or text[at - 1] not in ".!?…":
                if text[begin:at].strip():
                    yield text[begin:at].strip()
                begin = at
    if text[begin:].strip():
        yield text[begin:].strip()

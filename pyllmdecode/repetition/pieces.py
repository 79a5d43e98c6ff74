"""A text in pieces, words or sentences of any script, and what is left of it when some of them go."""

import re
import unicodedata
from typing import NamedTuple

import numpy as np

# Scripts that are written without spaces between words: there a word is a character (Unicode blocks, Scripts.txt).
_SPACELESS = (
    "\u0e00-\u0eff\u0f00-\u0fff\u1000-\u109f\u1780-\u17ff"  # Thai, Lao, Tibetan, Burmese, Khmer
    "\u3005-\u3007\u3040-\u30ff\u31f0-\u31ff\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\uff66-\uff9f"  # Kana, Han
    "\U00020000-\U0003ffff"
)
# A mark or a line that is written with many of one character is one piece: '...', '-----'.
_WORDS = re.compile(rf"[{_SPACELESS}]|[^\W{_SPACELESS}]+|([^\w\s])\1*|_")
# Marks that end a sentence wherever they stand (Unicode's Sentence_Terminal, beyond ASCII), those that need a space
# after them, and what may close a quotation after either.
_ENDS = "。！？｡\u0589\u061f\u06d4\u0964\u0965\u104b\u1362\u1367\u1368\u17d4\u17d5"
_CLOSING = "\"'”’»）)\\]』」】》〉"
_SENTENCES = re.compile(
    rf"\s*(?P<sentence>\S(?:[^\n]*?(?:[{_ENDS}]+[{_CLOSING}]*|[.!?…]+[{_CLOSING}]*(?=\s|$))|[^\n]*))"
)


class Pieces(NamedTuple):
    """Pieces of a text, from left to right; between them stands nothing but white space."""

    text: str
    begins: np.ndarray  # int64 [n]
    ends: np.ndarray  # int64 [n]
    ids: np.ndarray  # int64 [n], equal where the pieces are

    def of(self, index: int) -> str:
        return self.text[self.begins[index] : self.ends[index]]

    def without(self, first: int, last: int) -> tuple[int, int]:
        """What to cut from the text so that the pieces first to last - 1 go, with the white space that would be left.

        A line break stays where the text before or after it does.
        """
        begin, end = int(self.begins[first]), int(self.ends[last - 1])
        before = int(self.ends[first - 1]) if first else 0
        after = int(self.begins[last]) if last < len(self.begins) else len(self.text)
        ends_line = "\n" in self.text[end:after] or last == len(self.begins)
        begins_line = "\n" in self.text[before:begin] or first == 0
        return (before, end) if (ends_line or end == after) and not begins_line else (begin, after)


def words(text: str) -> Pieces:
    """Words, punctuation marks, and the characters of scripts without spaces, told apart as they are written."""
    return _pieces(text, [match.span() for match in _WORDS.finditer(text)])


def sentences(text: str) -> Pieces:
    """Sentences and lines, told apart with their white space as one space."""
    return _pieces(text, [_stripped(match) for match in _SENTENCES.finditer(text)], normal)


def normal(text: str) -> str:
    return " ".join(text.split())


def width(text: str) -> int:
    """Columns, so that a Chinese character counts twice; no more than 256 are counted."""
    return sum(2 if unicodedata.east_asian_width(character) in "WF" else 1 for character in text[:256])


def _stripped(match: re.Match) -> tuple[int, int]:
    begin, end = match.span("sentence")
    return begin, begin + len(match["sentence"].rstrip())


def _pieces(text: str, spans: list[tuple[int, int]], key=lambda piece: piece) -> Pieces:
    known: dict[str, int] = {}
    ids = [known.setdefault(key(text[begin:end]), len(known)) for begin, end in spans]
    places = np.array(spans, np.int64).reshape(-1, 2)
    return Pieces(text, places[:, 0], places[:, 1], np.array(ids, np.int64))

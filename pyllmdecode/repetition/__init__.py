"""Repetition as such: how much of it a finished text has, where it is a loop, and what is left without it."""

from . import metrics
from .dedupe import Deduped, Span, dedupe, dedupe_ids
from .detect import Detected, detect

__all__ = ["Deduped", "Detected", "Span", "dedupe", "dedupe_ids", "detect", "metrics"]

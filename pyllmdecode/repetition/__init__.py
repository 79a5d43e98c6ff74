"""Repetition as such: how much of it a text has."""

from . import metrics

__all__ = ["metrics"]

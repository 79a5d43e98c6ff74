"""The command line: `pyllmdecode generate`, `info` and `demo`."""

from .commands import main

__all__ = ["main"]

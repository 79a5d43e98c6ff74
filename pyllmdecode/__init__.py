"""pyllmdecode: one exact decoding step for language models, from logits to tokens. See docs/contract.md."""

import importlib

from . import metrics, policies, reference, repetition
from .api import process_logits, sample
from .backends.choice import Backend, backends
from .detection import RepetitionDetection
from .output import RowError, SampleOutput
from .params import SamplingParams
from .policies import LoopPolicy
from .sampler import Sampler
from .scoring import ScoreOutput, score
from .seeding import seeds
from .tables import BAD_HISTORY_ID, EMPTY_ROW, HISTORY_FULL, LOOP, NAN_LOGITS

_LATER = {"losses"}  # modules that are for some, imported when they are first asked for


def __getattr__(name: str):
    if name in _LATER:
        return importlib.import_module(f".{name}", __name__)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


__version__ = "0.1.0"

__all__ = [
    "BAD_HISTORY_ID",
    "EMPTY_ROW",
    "HISTORY_FULL",
    "LOOP",
    "NAN_LOGITS",
    "LoopPolicy",
    "Backend",
    "RepetitionDetection",
    "RowError",
    "SampleOutput",
    "Sampler",
    "SamplingParams",
    "ScoreOutput",
    "backends",
    "metrics",
    "policies",
    "process_logits",
    "reference",
    "repetition",
    "sample",
    "score",
    "seeds",
]

"""pyllmdecode: one exact decoding step for language models, from logits to tokens. See docs/contract.md."""

from . import metrics, reference, repetition
from .api import process_logits, sample
from .backends.choice import Backend, backends
from .detection import RepetitionDetection
from .output import RowError, SampleOutput
from .params import SamplingParams
from .sampler import Sampler
from .scoring import ScoreOutput, score
from .seeding import seeds
from .tables import BAD_HISTORY_ID, EMPTY_ROW, HISTORY_FULL, NAN_LOGITS

__version__ = "0.1.0"

__all__ = [
    "BAD_HISTORY_ID",
    "EMPTY_ROW",
    "HISTORY_FULL",
    "NAN_LOGITS",
    "Backend",
    "RepetitionDetection",
    "RowError",
    "SampleOutput",
    "Sampler",
    "SamplingParams",
    "ScoreOutput",
    "backends",
    "metrics",
    "process_logits",
    "reference",
    "repetition",
    "sample",
    "score",
    "seeds",
]

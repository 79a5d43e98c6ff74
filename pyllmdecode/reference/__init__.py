"""The contract in plain PyTorch: what every other backend computes, written to be read. See docs/contract.md."""

from .edits import edit_row
from .interval import kept_tokens
from .mass import exponents, masses
from .philox import as_bits, high64, random_bits
from .process_logits import process_logits
from .sample_step import SampleOutput, sample_step

__all__ = [
    "SampleOutput",
    "as_bits",
    "edit_row",
    "exponents",
    "high64",
    "kept_tokens",
    "masses",
    "process_logits",
    "random_bits",
    "sample_step",
]

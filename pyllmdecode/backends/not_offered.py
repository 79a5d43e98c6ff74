"""What the backends on GPUs do not have yet. Both this file and the calls of it go when they do."""

from collections.abc import Sequence

from ..more_checks import FIELDS
from ..params import SamplingParams

BACKENDS = ("cuda", "triton")


def refuse(params: Sequence[SamplingParams], backend: str) -> None:
    """ValueError for a row with a field that only the CPU's backends have."""
    if backend not in BACKENDS:
        return
    off = SamplingParams()
    for row, one in enumerate(params):
        if one._extras:
            name = next(name for name in FIELDS if getattr(one, name) != getattr(off, name))
            raise ValueError(
                f"row {row}: {name}: got {getattr(one, name)!r}; accepted by backend {backend!r}: "
                f"{getattr(off, name)!r}, as only 'cpu' and 'reference' have it yet"
            )

"""Whether generated tokens end in a loop (docs/contract.md, section 9), kept up to date with each token.

What a request keeps for it is described in backends/loops.py: int32 fields, then two arrays.
"""

import triton
import triton.language as tl

from ..tables import LOOP, LOOP_FIELDS, LOOP_HEADER, WORD
from .layout import PROMPT_LENGTH

LOOPS = tl.constexpr(WORD["loops"])
LOOP_FLAG = tl.constexpr(LOOP)
_HEADER = tl.constexpr(LOOP_HEADER)
_MAX, _MIN, _COUNT, _MIN_TOKENS, _WINDOW, _N, _REPEATS, _DISTANCES, _REPEATED = (
    tl.constexpr(index) for index in range(len(LOOP_FIELDS))
)
_BLOCK = tl.constexpr(1024)
_NOWHERE = tl.constexpr(2147483647)


@triton.jit
def watch(it, loops, tokens, length, token):
    """loops: int32 pointer. tokens: int32 pointer to the history, of `length` tokens before this one.
    -> loop_period, and the flags it adds to the status."""
    most, least, again = tl.load(loops + _MAX), tl.load(loops + _MIN), tl.load(loops + _COUNT) - 1
    window, n, distances = tl.load(loops + _WINDOW), tl.load(loops + _N), tl.load(loops + _DISTANCES)
    generated = (length - tl.load(it + PROMPT_LENGTH)).to(tl.int32)
    runs = loops + _HEADER
    block, gram = tl.full([], _NOWHERE, tl.int32), tl.full([], _NOWHERE, tl.int32)
    for first in range(0, distances, _BLOCK):
        at = first + tl.arange(0, _BLOCK)
        distance = distances - at
        there = (at < distances) & (distance <= generated)
        equal = tl.load(tokens + length - distance, mask=there, other=-1) == token
        run = tl.where(equal, tl.load(runs + at, mask=there, other=0) + 1, 0)
        tl.store(runs + at, run, mask=there)
        is_block = there & (distance >= least) & (distance <= most) & (run >= distance * again)
        is_gram = there & (distance <= window - n) & (run >= n)
        block = tl.minimum(block, tl.min(tl.where(is_block, distance, _NOWHERE), 0))
        gram = tl.minimum(gram, tl.min(tl.where(is_gram, distance, _NOWHERE), 0))
    repeated, count = tl.load(loops + _REPEATED), generated + 1
    if window > 0:
        marks = runs + distances
        # The n-gram at the window's beginning leaves, so that where it came again is the first place now.
        leaving = tl.maximum(generated - window + n - 1, 0) % window
        repeated -= tl.where((count > window) & (tl.load(marks + leaving) != 0), 1, 0)
        repeated += tl.where(gram < _NOWHERE, 1, 0)
        earlier = tl.where(gram < _NOWHERE, generated - gram, 0) % window
        tl.debug_barrier()  # all have read what is written now
        tl.store(loops + _REPEATED, repeated)
        tl.store(marks + generated % window, 0)
        tl.store(marks + earlier, 1, mask=gram < _NOWHERE)
    alarm = (window > 0) & (count >= window) & (repeated >= tl.load(loops + _REPEATS))
    ready = count >= tl.load(loops + _MIN_TOKENS)
    period = tl.where(ready & (block < _NOWHERE), block, 0)
    return period, tl.where((period > 0) | (ready & alarm), LOOP_FLAG, 0)

"""Where top-p's threshold is to be expected in a row that has not been read in full: a guess, which may be wrong.

The mass below t is estimated as that of the sketch's entries and the touched tokens, which are known, and that of a
sample of the row's groups without their largest tokens, times the inverse of the share that was sampled. What is rare
and large is in the sketch, what is left varies little, and three standard deviations of the estimate make the bracket.
"""

import triton
import triton.language as tl

from .layout import GROUP
from .rows import INF, bits_of_groups, sanitise, widen

_BLOCK = tl.constexpr(1024)
_GATHERED = tl.constexpr(16)
_WAYS = tl.constexpr(8)
_ROUNDS = tl.constexpr(4)  # each leaves a ninth of the range: 1/6561 in the end
_MASSLESS = tl.constexpr(45.0)  # exponents this far below the largest have no mass


@triton.jit
def take_sample(row, touched, edited, groups, vocab, every, sampled, sample):
    """Every `every`-th group without its largest tokens, to `sample`, float32 [sampled * 32]; -> the least finite x."""
    least = tl.full([], float("inf"), tl.float32)
    for first in range(0, sampled, _GATHERED):
        at = first + tl.arange(0, _GATHERED)
        group = at * every
        token = group[:, None] * GROUP + tl.arange(0, GROUP)[None, :]
        inside = (token < vocab) & (at < sampled)[:, None]
        x = sanitise(widen(tl.load(row + token, mask=inside, other=-INF)))
        if edited:
            x = tl.where(bits_of_groups(touched, tl.minimum(group, groups - 1), vocab), -INF, x)
        x = tl.where(x == tl.max(x, 1)[:, None], -INF, x)
        least = tl.minimum(least, tl.min(tl.where(x > -INF, x, INF)))
        place = at[:, None] * GROUP + tl.arange(0, GROUP)[None, :]
        tl.store(sample + place, x, mask=(at < sampled)[:, None] & (place >= 0))
    tl.debug_barrier()
    return least


@triton.jit
def below(array, size, thresholds, maximum, scale):
    """float32 [WAYS] twice: mass below each threshold, relative to the largest, and the sum of its squares."""
    first_moment, second_moment = tl.zeros_like(thresholds), tl.zeros_like(thresholds)
    for first in range(0, size, _BLOCK):
        at = first + tl.arange(0, _BLOCK)
        x = tl.load(array + at, mask=at < size, other=-INF)
        share = tl.where(x > -INF, tl.exp2((x - maximum) * scale), 0.0)
        share = tl.where(x[None, :] < thresholds[:, None], share[None, :], 0.0)
        first_moment += tl.sum(share, 1)
        second_moment += tl.sum(share * share, 1)
    return first_moment, second_moment


@triton.jit
def bracket(
    maximum, scale, p, sketch, groups, row, touched, edited, vocab, touched_x, num_touched, sample, SAMPLE: tl.constexpr
):
    """-> low and high: the threshold is expected in [low, high). sample: room for SAMPLE float32 values."""
    every = tl.cdiv(groups, SAMPLE // GROUP)
    sampled = tl.cdiv(groups, every)
    least = take_sample(row, touched, edited, groups, vocab, every, sampled, sample)
    low, high = tl.maximum(tl.minimum(least, maximum), maximum - _MASSLESS / scale), maximum
    if maximum < INF:
        weight = groups.to(tl.float32) / sampled.to(tl.float32)
        rest = 1.0 - p.to(tl.float32) * (1.0 / 4294967296.0)
        ways = tl.arange(0, _WAYS)
        wanted, doubt = tl.zeros([_WAYS], tl.float32), tl.zeros([_WAYS], tl.float32)
        for step in range(_ROUNDS + 1):
            thresholds = low + (high - low) * ((1 + ways).to(tl.float32) * (1.0 / (_WAYS + 1)))
            thresholds = tl.where(step == 0, INF, thresholds)  # first the total
            sketched, _ = below(sketch, groups, thresholds, maximum, scale)
            edits, _ = below(touched_x, num_touched, thresholds, maximum, scale)
            others, squares = below(sample, sampled * GROUP, thresholds, maximum, scale)
            mass = sketched + edits + weight * others
            noise = 3.0 * weight * tl.sqrt(squares)
            if step == 0:
                wanted, doubt = rest * mass, rest * noise
            else:
                low = tl.maximum(low, tl.max(tl.where(mass + noise + doubt <= wanted, thresholds, low), 0))
                high = tl.minimum(high, tl.min(tl.where(mass - noise - doubt >= wanted, thresholds, high), 0))
    return low, high

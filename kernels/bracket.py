"""Where top-p's threshold is to be expected in a row that has not been read in full: a guess, which may be wrong.

The mass below t is estimated from three parts: the largest tokens of all groups, which the sketch knows; the other
tokens of the groups with the largest of those, which are read; and, of all other groups, a sample times the inverse of
its share. So what is rare and large is known, what is left varies little, and the bracket is three standard deviations
wide on either side.
"""

import triton
import triton.language as tl

from .interval import LOWEST, search
from .layout import GROUP
from .rows import INF, bits_of_groups, sanitise, select_groups, widen

_BLOCK = tl.constexpr(512)
_GATHERED = tl.constexpr(16)
_WAYS = tl.constexpr(8)
_ROUNDS = tl.constexpr(4)  # each leaves a ninth of the range: 1/6561 in the end
_MASSLESS = tl.constexpr(45.0)  # exponents this far below the largest have no mass


@triton.jit
def others_of_groups(row, touched, edited, group, inside, vocab, largest):
    """float32 [G, 32]: the tokens of these groups without the largest ones."""
    token = group[:, None] * GROUP + tl.arange(0, GROUP)[None, :]
    x = sanitise(widen(tl.load(row + token, mask=(token < vocab) & inside[:, None], other=-INF)))
    if edited:
        x = tl.where(bits_of_groups(touched, group, vocab), -INF, x)
    return tl.where(x == largest[:, None], -INF, x)


@triton.jit
def read_largest_groups(row, touched, edited, groups, vocab, sketch, top, places, exact, EXACT: tl.constexpr):
    """Groups whose largest token is at least `top`: their others to `exact`; -> how many groups, 0 if over EXACT."""
    found = select_groups(sketch, groups, top, places, EXACT)
    found = tl.where(found > EXACT, 0, found)
    for first in range(0, found, _GATHERED):
        at = first + tl.arange(0, _GATHERED)
        group = tl.load(places + at, mask=at < found, other=0)
        largest = tl.load(sketch + group)
        x = others_of_groups(row, touched, edited, group, at < found, vocab, largest)
        tl.store(exact + at[:, None] * GROUP + tl.arange(0, GROUP)[None, :], x)
    return found


@triton.jit
def take_sample(row, touched, edited, groups, vocab, sketch, top, every, sampled, sample):
    """The others of every `every`-th group below `top` to `sample`, [sampled * 32]; -> the least finite one."""
    least = tl.full([], float("inf"), tl.float32)
    for first in range(0, sampled, _GATHERED):
        at = first + tl.arange(0, _GATHERED)
        group = tl.minimum(at * every, groups - 1)
        largest = tl.load(sketch + group)
        inside = (at < sampled) & (largest < top)
        x = others_of_groups(row, touched, edited, group, inside, vocab, largest)
        least = tl.minimum(least, tl.min(tl.where(x > -INF, x, INF)))
        place = at[:, None] * GROUP + tl.arange(0, GROUP)[None, :]
        tl.store(sample + place, x, mask=place < sampled * GROUP)
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
    maximum, scale, p, sketch, groups, row, touched, edited, vocab, touched_x, num_touched, places, exact, sample,
    SAMPLE: tl.constexpr, EXACT: tl.constexpr, ALIGNED: tl.constexpr,
):  # fmt: skip
    """-> low and high: the threshold is expected in [low, high).

    exact: room for the tokens of EXACT groups. sample: room for SAMPLE tokens.
    """
    high = maximum
    low = tl.maximum(maximum - _MASSLESS / scale, LOWEST)
    if maximum < INF:
        enough: tl.constexpr = EXACT - EXACT // 4
        top = search(
            low, high, enough, 0, EXACT // 4, row, touched, edited, 0, vocab, sketch, groups, maximum, scale, False,
            ALIGNED,
        )  # fmt: skip
        read = read_largest_groups(row, touched, edited, groups, vocab, sketch, top, places, exact, EXACT)
        top = tl.where(read > 0, top, INF)
        every = tl.cdiv(groups, SAMPLE // GROUP)
        sampled = tl.cdiv(groups, every)
        least = take_sample(row, touched, edited, groups, vocab, sketch, top, every, sampled, sample)
        tl.debug_barrier()
        low = tl.maximum(low, tl.minimum(least, maximum))
        range_of_x = high - low
        weight = groups.to(tl.float32) / sampled.to(tl.float32)
        share = p.to(tl.float32) * (1.0 / 4294967296.0)
        rest = 1.0 - share
        ways = tl.arange(0, _WAYS)
        wanted, all_squares = tl.zeros([_WAYS], tl.float32), tl.zeros([_WAYS], tl.float32)
        for step in range(_ROUNDS + 1):
            thresholds = low + (high - low) * ((1 + ways).to(tl.float32) * (1.0 / (_WAYS + 1)))
            thresholds = tl.where(step == 0, INF, thresholds)  # first the total
            known, _ = below(sketch, groups, thresholds, maximum, scale)
            edits, _ = below(touched_x, num_touched, thresholds, maximum, scale)
            largest, _ = below(exact, read * GROUP, thresholds, maximum, scale)
            others, squares = below(sample, sampled * GROUP, thresholds, maximum, scale)
            mass = known + edits + largest + weight * others
            if step == 0:
                wanted, all_squares = rest * mass, squares
            else:
                # Of the mass below minus `rest` of the total, to which each sampled token adds its mass times `share`
                # or takes from it its mass times `rest`.
                variance = share * share * squares + rest * rest * tl.maximum(all_squares - squares, 0.0)
                noise = 3.0 * weight * tl.sqrt(variance)
                low = tl.maximum(low, tl.max(tl.where(mass + noise <= wanted, thresholds, low), 0))
                high = tl.minimum(high, tl.min(tl.where(mass - noise >= wanted, thresholds, high), 0))
        # Where nothing is in doubt the ends are neighbours, and the threshold may be equal to the upper one.
        low, high = low - range_of_x * (1.0 / 2048), tl.minimum(maximum, high + range_of_x * (1.0 / 2048))
    return low, high

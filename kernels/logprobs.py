"""Log-probabilities under the model: of the drawn token, and what a list of the most probable ones is computed from."""

import triton
import triton.language as tl

from .mass import log2_share, mass
from .rows import INF, load_raw, row_of, sanitise, token_ids, widen

_GROUPS = tl.constexpr(64)
_LOG2_E = tl.constexpr(1.4426950216293335)  # float32(log2(e))
_LOG_2 = tl.constexpr(0.6931471805599453)


@triton.jit(do_not_specialize=["stride", "vocab"], do_not_specialize_on_alignment=["result", "ranks"])
def raw_logprobs(logits, stride: "i64", vocab: "i32", tokens, result, ranks, sums, ALIGNED: tl.constexpr):
    """Grid: rows. result: float32 [rows], the log-softmax of the sanitised logits at `tokens`; -inf where that is -1.
    ranks: int64 [rows], how many logits are larger, plus one; 0 there.
    sums: float32 [rows, 2], the largest logit, and the logarithm of the sum of exp(logit - largest). That is a sum of
    masses, so it does not depend on its order either.
    """
    row_index = tl.program_id(0)
    row = row_of(logits, row_index, stride, ALIGNED)
    groups = tl.cdiv(vocab, 32)
    maximum = tl.full([], float("-inf"), tl.float32)
    for first in range(0, groups, _GROUPS):
        x = sanitise(load_raw(row, token_ids(first, _GROUPS), vocab, ALIGNED))
        maximum = tl.maximum(maximum, tl.max(x))
    token = tl.load(tokens + row_index)
    chosen = sanitise(widen(tl.load(row + tl.maximum(token, 0))))
    total, larger = tl.full([], 0, tl.int64), tl.full([], 0, tl.int32)
    for first in range(0, groups, _GROUPS):
        x = sanitise(load_raw(row, token_ids(first, _GROUPS), vocab, ALIGNED))
        total += tl.sum(tl.where(x > -INF, mass(x, maximum, _LOG2_E), 0))
        larger += tl.sum((x > chosen).to(tl.int32))
    share = log2_share(total) * _LOG_2
    tl.store(sums + 2 * row_index, maximum)
    tl.store(sums + 2 * row_index + 1, share)
    tl.store(
        result + row_index,
        tl.where((token < 0) | (chosen == -INF), -INF, tl.where(chosen == maximum, 0.0, chosen - maximum) - share),
    )
    tl.store(ranks + row_index, tl.where(token < 0, 0, 1 + larger).to(tl.int64))

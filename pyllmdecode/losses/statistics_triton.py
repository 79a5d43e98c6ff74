"""`statistics` on a GPU: a launch forward and one backward, without a tensor of the logits' size beside the result."""

import torch
from torch import Tensor

from ..backends.triton import is_aligned
from ..backends.triton_launch import launcher
from ..kernels.log_sum_exp import log_sum_exp, log_sum_exp_gradient

BLOCK, COLUMNS, WARPS = 2048, 256, 8  # tokens at a time, 8 a thread: two loads of 16 bytes in half types


def of(x: Tensor, scale: Tensor | None, smooth: bool) -> tuple[Tensor, Tensor, Tensor, Tensor | None]:
    x = _adjacent(x)
    maxima, seconds, sums, totals = (torch.empty(len(x), dtype=torch.float32, device=x.device) for _ in range(4))
    largest = torch.empty(len(x), dtype=torch.int64, device=x.device)
    arguments = (x, x.stride(0), x.shape[1], maxima if scale is None else scale, maxima, largest)
    arguments += (seconds, sums, totals)
    constants = (is_aligned(x), scale is not None, smooth, BLOCK)
    if len(x):
        launcher(x.device)((log_sum_exp, len(x), WARPS, arguments, constants))
    return maxima, largest, sums.log_().add_(seconds), totals if smooth else None


def gradient(x, columns, scale, row, largest, of_rest, of_values, of_largest, of_total, out) -> Tensor:
    """largest, columns: as this rank numbers its tokens, -1 for none. out: [R, V], may be x; None: a new one."""
    x = _adjacent(x)
    out = torch.empty(x.shape, dtype=torch.float32, device=x.device) if out is None else out
    rests = row.rest.masked_fill(row.rest == -torch.inf, 0.0)
    given = [row.maximum, largest, rests, of_rest, of_largest, rests if of_total is None else of_total]
    wide = [columns, row.values.detach(), of_values]
    given, wide = [one.contiguous() for one in given], [one.contiguous() for one in wide]
    arguments = (x, x.stride(0), x.shape[1], out, out.stride(0), rests if scale is None else scale, *given, *wide)
    aligned = is_aligned(x) and is_aligned(out)
    constants = (aligned, scale is not None, of_total is not None, out.dtype != x.dtype, BLOCK, COLUMNS)
    if len(x):
        launch = (log_sum_exp_gradient, len(x), WARPS, (*arguments, columns.shape[1]), constants)
        launcher(x.device)(launch)
    return out


def _adjacent(x: Tensor) -> Tensor:
    return x if x.stride(1) == 1 or x.shape[1] == 1 else x.contiguous()

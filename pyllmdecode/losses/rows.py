"""How every loss over a vocabulary reads logits, forward and backward: a few rows at a time, made or given.

A loss is a formula over what `statistics.Row` says of each row: four small things. So none needs a tensor of the
logits' size beside the logits and their gradient, and none writes its own derivative of a softmax: autograd derives the
formula for some rows, `statistics` carries that on to the logits. With `linear`, the logits themselves exist for some
rows at a time only: of a sum, forward and backward are computed together; otherwise they are made again in the backward
pass, from hidden states and the weight, which costs one of four multiplications. (The idea of Liger-Kernel, arXiv
2410.10989, and of Cut Cross-Entropy, arXiv 2411.09009.)
"""

import dataclasses
from collections.abc import Callable, Iterator

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from . import statistics
from .ranks import Shard

# Logits, as float32, that are made together: enough rows for a multiplication to be worth its reading of the weight.
MADE_BYTES = 2**26

Outputs = tuple[Tensor, ...]


class Formula:
    """A loss for some rows. rows: int64 [R], numbers of the rows among all of them, as for the other methods."""

    smooth = False  # whether `total` is needed

    def columns(self, rows: Tensor) -> Tensor:
        """int64 [R, K], the tokens whose values are needed, distinct in each row; -1: none."""
        raise NotImplementedError

    def __call__(self, row: statistics.Row, rows: Tensor) -> Outputs:
        """One number per row, or several: tensors [R], differentiable in what `row` holds."""
        raise NotImplementedError

    def edit(self, logits: Tensor, rows: Tensor) -> tuple[Tensor, Tensor | None]:
        """What the formula is about: logits [R, V], -inf for tokens that are not in it, and what differences of them
        are multiplied with, [R] (1 / temperature) or None.
        """
        return logits, None

    def edit_backward(self, grad: Tensor, logits: Tensor, edited: Tensor, rows: Tensor) -> Tensor:
        """The derivative by the logits, from that by the edited ones, both [R, V]; may change what it gets."""
        return grad


def of_logits(formula: Formula, logits: Tensor, rows: Tensor | None, shard: Shard | None) -> Outputs:
    """The formula at these rows (None: all) of logits [..., V]: tensors [len(rows)]."""
    with torch.autocast(logits.device.type, enabled=False):
        return _OfLogits.apply(logits, formula, rows, shard)


def of_linear(
    formula: Formula, hidden: Tensor, weight: Tensor, bias: Tensor | None, rows: Tensor | None, shard: Shard | None,
    *, summed: bool = False,
) -> Outputs:  # fmt: skip
    """The same of the logits hidden @ weight.T + bias. hidden: [..., D]; weight: [V, D]; bias: [V].

    summed: the sum of the formula's one output instead, for which the logits are made once, not twice.
    """
    kind = hidden.device.type
    if torch.is_autocast_enabled(kind):  # as torch.nn.Linear does
        lower = torch.get_autocast_dtype(kind)
        hidden, weight = hidden.to(lower), weight.to(lower)
        bias = bias if bias is None else bias.to(lower)
    hidden = hidden.reshape(-1, hidden.shape[-1])
    with torch.autocast(kind, enabled=False):
        if summed:
            return (_SumOfLinear.apply(hidden, weight, bias, formula, rows, shard),)
        return _OfLinear.apply(hidden, weight, bias, formula, rows, shard)


@torch.no_grad()
def given(source) -> Iterator[tuple[Tensor, Tensor]]:
    """Numbers of rows and their logits [R, V], all of [N, V] some at a time. source: checks.Source, without a shard."""
    if source.logits is not None:
        limit = statistics.at_once(source.logits)
    else:
        limit = MADE_BYTES
    for _, rows in _parts(source.shape[0], source.vocab, limit, None, source.device, None):
        if source.logits is not None:
            yield rows, _take(source.logits.detach(), rows)
        else:
            yield rows, _product(source.hidden.detach()[rows], source.weight.detach(), source.bias)


def _parts(count: int, vocab: int, limit: int, rows: Tensor | None, device, shard) -> list[tuple]:
    """(place among the outputs, numbers of the rows), both for some rows at a time."""
    some = max(limit // (4 * (vocab if shard is None else shard.largest)), 1)
    rows = torch.arange(count, dtype=torch.int64, device=device) if rows is None else rows
    places = [slice(a, min(a + some, len(rows))) for a in range(0, len(rows), some)]
    return [(place, rows[place]) for place in places]


def _forward(formula, logits, rows, shard):
    """(outputs, what the backward pass needs to know) of these rows' logits, in their own type."""
    x, scale = formula.edit(logits, rows)
    row = statistics.of(x, formula.columns(rows), scale, formula.smooth, shard)
    return formula(row, rows), (row.maximum, row.largest, row.rest)


def _gradient(formula, logits, rows, shard, known, grads, out=None) -> Tensor:
    """[R, V]; in `out`, which may be the logits, where one is given, else in the type that is computed in."""
    x, scale = formula.edit(logits, rows)
    columns = formula.columns(rows)
    row = statistics.again(x, columns, scale, formula.smooth, shard, *known)
    leaves = [row.rest, row.values] + ([row.total] if formula.smooth else [])
    with torch.enable_grad():
        for leaf in leaves:
            leaf.requires_grad_()
        pairs = [(out, grad) for out, grad in zip(formula(row, rows), grads) if out.requires_grad and grad is not None]
        given = [grad for _, grad in pairs]
        wanted = torch.autograd.grad([out for out, _ in pairs], leaves, given, allow_unused=True)
    wanted = [torch.zeros_like(leaf) if got is None else got for leaf, got in zip(leaves, wanted)]
    row = dataclasses.replace(row, rest=row.rest.detach())
    edits = type(formula).edit_backward is not Formula.edit_backward
    made = statistics.gradient(x, columns, scale, row, *wanted, shard=shard, out=None if edits else out)
    if not edits:
        return made
    made = formula.edit_backward(made, logits, x, rows)
    return made if out is None else out.copy_(made)


def _collect(parts, forward: Callable[[Tensor], tuple], dtype, device, formula) -> tuple[Outputs, Outputs]:
    made = [forward(rows) for _, rows in parts]
    if not made:  # no rows: outputs of their form
        nothing = torch.zeros(0, dtype=dtype, device=device)
        rows = torch.zeros(0, dtype=torch.int64, device=device)
        columns = formula.columns(rows)
        row = statistics.Row(nothing, rows, nothing, columns.to(dtype), columns, nothing)
        made = [(formula(row, rows), (nothing, rows, nothing))]
    return tuple(tuple(map(torch.cat, zip(*some))) for some in zip(*made))


class _OfLogits(torch.autograd.Function):
    @staticmethod
    def forward(ctx, logits, formula, rows, shard):
        vocab = logits.shape[-1]
        dtype = statistics.computed(logits.dtype)
        parts = _parts(logits.numel() // vocab, vocab, statistics.at_once(logits), rows, logits.device, shard)
        outputs, known = _collect(
            parts, lambda some: _forward(formula, _take(logits, some), some, shard), dtype, logits.device, formula
        )
        ctx.save_for_backward(logits, *known)
        ctx.formula, ctx.rows, ctx.shard = formula, rows, shard
        ctx.set_materialize_grads(False)
        return outputs

    @staticmethod
    @once_differentiable
    def backward(ctx, *grads):
        logits, *known = ctx.saved_tensors
        vocab = logits.shape[-1]
        make = torch.empty if ctx.rows is None else torch.zeros
        result = make(logits.shape, dtype=logits.dtype, device=logits.device)
        flat = result.view(-1, vocab)
        for place, rows in _parts(len(flat), vocab, statistics.at_once(logits), ctx.rows, logits.device, ctx.shard):
            some = [None if grad is None else grad[place] for grad in grads]
            told = [one[place] for one in known]
            out = flat[place] if ctx.rows is None else None
            made = _gradient(ctx.formula, _take(logits, rows), rows, ctx.shard, told, some, out)
            if out is None:
                flat[rows] = made.to(flat.dtype)
        return result, None, None, None


def _take(logits: Tensor, rows: Tensor) -> Tensor:
    """Rows of logits [..., V], of any strides; a view where they are neighbours."""
    first, last = (int(rows[0]), int(rows[-1])) if len(rows) else (0, -1)
    if last - first + 1 == len(rows):  # they ascend
        if logits.dim() == 2:
            return logits[first : last + 1]
        length = logits.shape[1]
        if logits.is_contiguous():
            return logits.view(-1, logits.shape[-1])[first : last + 1]
        if length and first // length == last // length:
            return logits[first // length, first % length : last % length + 1]
    if logits.dim() == 2:
        return logits[rows]
    return logits[rows // logits.shape[1], rows % logits.shape[1]]


class _Sums:
    """Derivatives by hidden states [N, D], weight and bias, summed up over some rows at a time."""

    def __init__(self, hidden: Tensor, weight: Tensor, bias: Tensor | None, wanted):
        self.tensors = hidden, weight, bias
        kind = {"dtype": statistics.computed(weight.dtype), "device": weight.device}  # of many rows: not in half types
        self.of_hidden = torch.zeros_like(hidden) if wanted[0] else None
        self.of_weight = torch.zeros(weight.shape, **kind) if wanted[1] else None
        self.of_bias = torch.zeros(bias.shape, **kind) if bias is not None and wanted[2] else None

    def add(self, h: Tensor, rows: Tensor, made: Tensor) -> None:
        """made: [R, V], the derivative by the logits of these rows, of the hidden states' type."""
        if self.of_bias is not None:
            self.of_bias += made.sum(0, dtype=self.of_bias.dtype)
        if self.of_hidden is not None:
            self.of_hidden[rows] = made @ self.tensors[1]
        if self.of_weight is not None and self.of_weight.dtype == h.dtype:
            self.of_weight.addmm_(made.T, h)
        elif self.of_weight is not None:
            self.of_weight += made.T @ h

    def done(self, shard: Shard | None) -> tuple[Tensor | None, ...]:
        if shard is not None and self.of_hidden is not None:
            shard.add(self.of_hidden)
        found = self.of_hidden, self.of_weight, self.of_bias
        return tuple(None if one is None else one.to(given.dtype) for one, given in zip(found, self.tensors))


class _OfLinear(torch.autograd.Function):
    @staticmethod
    def forward(ctx, hidden, weight, bias, formula, rows, shard):
        dtype = statistics.computed(hidden.dtype)
        parts = _parts(len(hidden), len(weight), MADE_BYTES, rows, hidden.device, shard)

        def forward(some):
            return _forward(formula, _product(hidden[some], weight, bias), some, shard)

        outputs, known = _collect(parts, forward, dtype, hidden.device, formula)
        ctx.save_for_backward(hidden, weight, bias, *known)
        ctx.formula, ctx.rows, ctx.shard = formula, rows, shard
        ctx.set_materialize_grads(False)
        return outputs

    @staticmethod
    @once_differentiable
    def backward(ctx, *grads):
        hidden, weight, bias, *known = ctx.saved_tensors
        sums = _Sums(hidden, weight, bias, ctx.needs_input_grad)
        for place, rows in _parts(len(hidden), len(weight), MADE_BYTES, ctx.rows, hidden.device, ctx.shard):
            some = [None if grad is None else grad[place] for grad in grads]
            h, told = hidden[rows], [one[place] for one in known]
            logits = _product(h, weight, bias)
            sums.add(h, rows, _gradient(ctx.formula, logits, rows, ctx.shard, told, some, logits))
        return *sums.done(ctx.shard), None, None, None


class _SumOfLinear(torch.autograd.Function):
    """The sum of a formula's one output: what it is multiplied with later is one number, so that its derivatives can be
    taken at once, while the logits are there.
    """

    @staticmethod
    def forward(ctx, hidden, weight, bias, formula, rows, shard):
        dtype = statistics.computed(hidden.dtype)
        total = torch.zeros((), dtype=dtype, device=hidden.device)
        sums = _Sums(hidden, weight, bias, ctx.needs_input_grad)
        for _, some in _parts(len(hidden), len(weight), MADE_BYTES, rows, hidden.device, shard):
            h = hidden[some]
            logits = _product(h, weight, bias)
            (losses,), known = _forward(formula, logits, some, shard)
            total += losses.sum()
            if any(ctx.needs_input_grad):
                one = torch.ones_like(losses)
                sums.add(h, some, _gradient(formula, logits, some, shard, known, [one], logits))
        ctx.save_for_backward(*sums.done(shard))
        return total

    @staticmethod
    @once_differentiable
    def backward(ctx, grad):
        made = [None if one is None else one * grad.to(one.dtype) for one in ctx.saved_tensors]
        return *made, None, None, None


def _product(hidden: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    return torch.nn.functional.linear(hidden, weight, bias)

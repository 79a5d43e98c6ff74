"""What the losses accept, and the errors that say so. Nothing here changes an argument."""

import math
import numbers
from typing import NamedTuple

import torch
from torch import Tensor

from ..inputs import check_memory
from ..tables import MAX_VOCAB
from .ranks import Shard

DTYPES = (torch.float32, torch.float16, torch.bfloat16, torch.float64)
IGNORE_INDEX = -100
_NAMES = ", ".join(map(str, DTYPES))


class Source(NamedTuple):
    """Where logits come from: given, or made of hidden states and a weight."""

    logits: Tensor | None
    hidden: Tensor | None
    weight: Tensor | None
    bias: Tensor | None
    shard: Shard | None

    @property
    def vocab(self) -> int:
        """Of all ranks."""
        if self.shard is not None:
            return self.shard.vocab
        return self.logits.shape[-1] if self.logits is not None else len(self.weight)

    @property
    def device(self) -> torch.device:
        return (self.hidden if self.logits is None else self.logits).device

    @property
    def shape(self) -> tuple[int, ...]:
        """[B, L] or [N]."""
        return tuple((self.hidden if self.logits is None else self.logits).shape[:-1])


def given_logits(logits, group, dims: int = 3) -> Source:
    floats(logits, "logits", dims, "[B, L, V]" if dims == 3 else "[N, V]")
    vocabulary(logits.shape[-1], "logits")
    return Source(logits, None, None, None, shard_of(logits.shape[-1], group, logits.device))


def given_linear(hidden, weight, bias, group, dims: int = 3) -> Source:
    floats(hidden, "hidden", dims, "[B, L, D]" if dims == 3 else "[N, D]")
    floats(weight, "weight", 2, "[V, D]")
    vocabulary(len(weight), "weight")
    if weight.shape[1] != hidden.shape[-1]:
        raise ValueError(f"weight: got shape {list(weight.shape)}; accepted: [V, {hidden.shape[-1]}], as of hidden")
    same(weight, "weight", hidden, "hidden")
    if bias is not None:
        floats(bias, "bias", 1, "[V]")
        same(bias, "bias", hidden, "hidden")
        if len(bias) != len(weight):
            raise ValueError(f"bias: got shape {list(bias.shape)}; accepted: [{len(weight)}]")
    return Source(None, hidden, weight, bias, shard_of(len(weight), group, hidden.device))


def shard_of(size: int, group, device) -> Shard | None:
    return None if group is None else Shard(size, group, device)


def floats(tensor, name: str, dims: int, form: str) -> None:
    if not isinstance(tensor, Tensor):
        raise TypeError(f"{name}: got {type(tensor).__name__}; accepted: a torch.Tensor {form}")
    if tensor.dtype not in DTYPES:
        raise TypeError(f"{name}: got dtype {tensor.dtype}; accepted: {_NAMES}")
    if tensor.layout is not torch.strided:
        raise TypeError(f"{name}: got layout {tensor.layout}; accepted: torch.strided")
    if tensor.dim() != dims:
        raise ValueError(f"{name}: got shape {list(tensor.shape)}; accepted: {form}")
    check_memory(tensor, name)


def vocabulary(size: int, name: str) -> None:
    if not 1 <= size <= MAX_VOCAB:
        raise ValueError(f"{name}: got a vocabulary of {size}; accepted: 1 to {MAX_VOCAB} (2^22)")


def same(tensor: Tensor, name: str, other: Tensor, other_name: str) -> None:
    if tensor.dtype != other.dtype and not torch.is_autocast_enabled(other.device.type):
        raise TypeError(f"{name}: got dtype {tensor.dtype}; accepted: {other.dtype}, that of {other_name}")
    if tensor.device != other.device:
        raise ValueError(f"{name}: got device {tensor.device}; accepted: {other.device}, that of {other_name}")


def integers(values, name: str, shape: tuple[int, ...], device: torch.device) -> Tensor:
    """An int64 tensor of that shape."""
    accepted = f"an integer tensor {list(shape)}"
    if not isinstance(values, Tensor):
        raise TypeError(f"{name}: got {type(values).__name__}; accepted: {accepted}")
    if values.dtype not in (torch.int64, torch.int32, torch.int16, torch.int8, torch.uint8):
        raise TypeError(f"{name}: got dtype {values.dtype}; accepted: {accepted}")
    if tuple(values.shape) != shape:
        raise ValueError(f"{name}: got shape {list(values.shape)}; accepted: {list(shape)}")
    if values.device != device:
        raise ValueError(f"{name}: got device {values.device}; accepted: {device}, where the logits are")
    check_memory(values, name)
    return values.detach().to(torch.int64)


def token_ids(ids, name: str, source: Source, ignore_index: int | None) -> Tensor:
    """int64 of the logits' first dimensions, each in the vocabulary or `ignore_index`."""
    found = integers(ids, name, source.shape, source.device)
    wrong = (found < 0) | (found >= source.vocab)
    if ignore_index is not None:
        wrong &= found != ignore_index
    within(wrong, found, name, f"ids in [0, {source.vocab})" + (f" or {ignore_index}" if ignore_index else ""))
    return found


def lengths(values, name: str, source: Source, low: int) -> Tensor:
    """int64 [B], each from `low` to L."""
    batch, length = source.shape
    if not isinstance(values, Tensor):
        values = torch.as_tensor(values, device=source.device)
    found = integers(values, name, (batch,), source.device)
    within((found < low) | (found > length), found, name, f"{low} to {length}, the length of the sequences")
    return found


def within(wrong: Tensor, values: Tensor, name: str, accepted: str) -> None:
    for where in wrong.nonzero()[:1].tolist():
        place = f"row {where[0]}" + (f", position {where[1]}" if len(where) > 1 else "")
        raise ValueError(f"{place}: {name}: got {int(values[tuple(where)])}; accepted: {accepted}")


def index(value) -> int:
    if isinstance(value, bool) or not isinstance(value, numbers.Integral):
        raise TypeError(f"ignore_index: got {value!r} ({type(value).__name__}); accepted: an integer")
    return int(value)


def number(name: str, value, low: float, high: float, *, open_low: bool = False) -> float:
    """A finite number from `low`, or above it, to `high`."""
    accepted = f"a finite number {'>' if open_low else '>='} {low:g}"
    accepted += f" and <= {high:g}" if high < math.inf else ""
    if isinstance(value, bool) or not isinstance(value, numbers.Real):
        raise TypeError(f"{name}: got {value!r} ({type(value).__name__}); accepted: {accepted}")
    found = float(value)
    if not (low <= found <= high and math.isfinite(found)) or (open_low and found == low):
        raise ValueError(f"{name}: got {value!r}; accepted: {accepted}")
    return found


def reduction(value) -> None:
    if value not in ("mean", "sum", "none"):
        raise ValueError(f"reduction: got {value!r}; accepted: 'mean', 'sum', 'none'")

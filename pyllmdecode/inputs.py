"""Checks what a caller passes and brings it into one form for every backend. Nothing here changes an argument."""

import functools
import itertools
import operator
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
from torch import _C, Tensor

from .params import SamplingParams, check_vocab
from .tables import MAX_VOCAB

LOGITS_DTYPES = (torch.float32, torch.float16, torch.bfloat16)
_ID_DTYPES = (torch.int64, torch.int32)
_OTHER_ID_DTYPES = (torch.int16, torch.int8, torch.uint8)
_BAD_ID = -(2**63)
_NO_IDS = torch.zeros(1, dtype=torch.int64, device="cpu")


def is_traced() -> bool:
    """Whether something records calls of torch or stands in their place. It sees operators, and nothing else."""
    return (
        _C._get_tracing_state() is not None
        or _C._len_torch_dispatch_stack() > 0
        or _C._are_functorch_transforms_active()
    )


def is_plain(tensor) -> bool:
    """Whether a tensor's numbers lie in memory as its strides say. Others are for operators, which torch prepares them
    for. What is no tensor at all counts as plain: it is refused later.
    """
    kind = type(tensor)
    if kind is Tensor:
        return not tensor.is_neg()
    return not isinstance(tensor, Tensor) or (kind is torch.nn.Parameter and not tensor.is_neg())


def check_memory(tensor: Tensor, name: str) -> None:
    """ValueError where a tensor has numbers but no memory, as after `untyped_storage().resize_(0)`."""
    if tensor.numel() and tensor.device.type != "meta":
        if tensor.untyped_storage().nbytes() < _end_of(tensor) or not tensor.data_ptr():
            raise ValueError(f"{name}: got a tensor that has no memory here; accepted: one that holds its values")


def _end_of(tensor: Tensor) -> int:
    """Bytes of its storage that a tensor needs."""
    last = tensor.storage_offset() + sum((n - 1) * step for n, step in zip(tensor.shape, tensor.stride()))
    return (last + 1) * tensor.element_size()


class History(NamedTuple):
    """Token ids of all rows, in one tensor: row i is ids[begins[i] : begins[i] + lengths[i]] of its memory."""

    ids: Tensor  # int32 or int64, last dimension contiguous
    begins: np.ndarray  # int64 [B], in elements
    lengths: np.ndarray  # int64 [B]
    padded: bool  # -1s at the end of a row are padding


def check_logits(logits, name: str = "logits") -> None:
    """TypeError or ValueError unless `logits` is a [B, V] tensor that a step can read."""
    if type(logits) is Tensor and logits.dtype in LOGITS_DTYPES and logits.layout is torch.strided:
        shape = logits.shape
        if len(shape) == 2 and 1 <= shape[1] <= MAX_VOCAB and (logits.stride(1) == 1 or shape[1] == 1):
            return
    if not isinstance(logits, Tensor):
        raise TypeError(f"{name}: got {type(logits).__name__}; accepted: a torch.Tensor [B, V]")
    if logits.dtype not in LOGITS_DTYPES:
        raise TypeError(f"{name}: got dtype {logits.dtype}; accepted: torch.float32, torch.float16, torch.bfloat16")
    if logits.layout is not torch.strided:
        raise TypeError(f"{name}: got layout {logits.layout}; accepted: torch.strided (call .to_dense() first)")
    if logits.dim() != 2:
        raise ValueError(f"{name}: got shape {list(logits.shape)}; accepted: [B, V]")
    if not 1 <= logits.shape[1] <= MAX_VOCAB:
        raise ValueError(f"{name}: got a vocabulary of {logits.shape[1]}; accepted: 1 to {MAX_VOCAB} (2^22)")
    if logits.shape[1] > 1 and logits.stride(1) != 1:
        raise ValueError(
            f"{name}: got stride {logits.stride(1)} between a row's tokens; accepted: 1 (call .contiguous() first)"
        )


def check_params(params, batch: int, vocab: int) -> list[SamplingParams]:
    """`params` as a list of `batch` SamplingParams, whose ids are inside the vocabulary."""
    if isinstance(params, SamplingParams):
        check_vocab(params, vocab)
        return [params] * batch
    accepted = f"SamplingParams, or a sequence of {batch} of them (one per row)"
    if isinstance(params, (str, bytes)) or not isinstance(params, Sequence):
        raise TypeError(f"params: got {type(params).__name__}; accepted: {accepted}")
    if len(params) != batch:
        raise ValueError(f"params: got {len(params)} of them; accepted: {accepted}")
    rows = []  # each is asked for once: a sequence may make its elements, others every time
    for row in range(batch):
        one = params[row]
        if not isinstance(one, SamplingParams):
            raise TypeError(f"row {row}: params: got {type(one).__name__}; accepted: SamplingParams")
        check_vocab(one, vocab, row)
        rows.append(one)
    return rows


def draw_seeds(params: Sequence[SamplingParams]) -> list[int]:
    """Each row's seed in [0, 2^64); those not given come from torch's default generator."""
    seeds = [one.seed for one in params]
    if None in seeds:
        missing = [row for row, seed in enumerate(seeds) if seed is None]
        fresh = torch.randint(-(2**63), 2**63 - 1, (len(missing),), dtype=torch.int64, device="cpu").tolist()
        for row, seed in zip(missing, fresh, strict=True):
            seeds[row] = seed
    return [seed % 2**64 for seed in seeds]


def check_history(history, batch: int, device: torch.device) -> History:
    """`history` of a call, checked but for its token ids, which are data."""
    if history is None:
        nothing, _ = _even(batch, 0, 0)
        ids = _NO_IDS if device.type == "cpu" else torch.zeros(1, dtype=torch.int64, device=device)
        return History(ids, nothing, nothing, False)
    if isinstance(history, Tensor):
        return _padded_history(history, batch, device)
    accepted = f"a [B, L] integer tensor, or a sequence of {batch} lists or 1-D integer tensors"
    if isinstance(history, (str, bytes)) or not isinstance(history, Sequence):
        raise TypeError(f"history: got {type(history).__name__}; accepted: {accepted}")
    if len(history) != batch:
        raise ValueError(f"history: got {len(history)} rows; accepted: {accepted}")
    if device.type == "cpu" and all(type(row) in (list, tuple) for row in history):
        ids = _plain_integers([*itertools.chain.from_iterable(history), 0])  # so that the memory has an address
        if ids is not None:
            lengths = np.array([len(row) for row in history], np.int64)
            return History(torch.from_numpy(ids), lengths.cumsum() - lengths, lengths, False)
    rows = [token_ids(row, f"row {index}: history", device) for index, row in enumerate(history)]
    lengths = np.array([len(row) for row in rows], np.int64)
    begins = np.zeros(batch, np.int64)
    np.cumsum(lengths[:-1], out=begins[1:])
    one = torch.zeros(1, dtype=torch.int64, device=device)  # so that the memory has an address
    return History(torch.cat([*rows, one]), begins, lengths, False)


def unpadded(history, attention_mask) -> list[Tensor]:
    """The rows of a [B, L] history, each the ids where its mask is 1; these have to be neighbours."""
    accepted = "a [B, L] tensor of 0 and 1, of the history's shape"
    if not isinstance(attention_mask, Tensor) or not isinstance(history, Tensor):
        kinds = f"{type(attention_mask).__name__} with a history of {type(history).__name__}"
        raise TypeError(f"attention_mask: got {kinds}; accepted: {accepted}, both tensors")
    if attention_mask.shape != history.shape or history.dim() != 2 or attention_mask.device != history.device:
        got = f"shape {list(attention_mask.shape)} on {str(attention_mask.device)!r}"
        there = f"{list(history.shape)} on {str(history.device)!r}"
        raise ValueError(f"attention_mask: got {got} with a history of {there}; accepted: {accepted}")
    counts = attention_mask != 0
    places = torch.arange(history.shape[1], dtype=torch.int64, device=history.device)
    begins = torch.where(counts, places, history.shape[1]).amin(1) if counts.numel() else counts.sum(1)
    ends = torch.where(counts, places + 1, 0).amax(1) if counts.numel() else begins
    spans = torch.stack([begins, ends, counts.sum(1)], 1).tolist()
    for row, (begin, end, count) in enumerate(spans):
        if count and end - begin != count:
            raise ValueError(f"row {row}: attention_mask: got zeros between ones; accepted: padding before or after")
    return [history[row, begin:end] if count else history[row, :0] for row, (begin, end, count) in enumerate(spans)]


def token_ids(ids, name: str, device: torch.device) -> Tensor:
    """A list or 1-D tensor of token ids as a 1-D int64 tensor on `device`."""
    accepted = "a list or a 1-D integer tensor of token ids"
    if isinstance(ids, Tensor):
        ids = _empty_as_integers(ids)
        if ids.dtype not in (*_ID_DTYPES, *_OTHER_ID_DTYPES):
            raise TypeError(f"{name}: got dtype {ids.dtype}; accepted: {accepted}")
        if ids.dim() != 1:
            raise ValueError(f"{name}: got shape {list(ids.shape)}; accepted: {accepted}")
        if ids.device != device:
            raise ValueError(f"{name}: got device {str(ids.device)!r}; accepted: {str(device)!r}, the logits' device")
        return ids.to(torch.int64)
    if isinstance(ids, np.ndarray):
        if ids.ndim != 1 or ids.dtype.kind not in "iu":
            raise TypeError(f"{name}: got a {ids.ndim}-D array of {ids.dtype}; accepted: {accepted}")
        return torch.from_numpy(ids.astype(np.int64)).to(device)
    if isinstance(ids, (str, bytes)) or not isinstance(ids, Sequence):
        raise TypeError(f"{name}: got {type(ids).__name__}; accepted: {accepted}")
    # An id too large for 64 bits is as bad as any other outside the vocabulary, and no error (contract, section 7).
    return torch.from_numpy(_integers(ids, name, accepted, too_large=_BAD_ID)).to(device)


def check_row_integers(values, name: str, batch: int, low: int = -(2**63), high: int = 2**63 - 1) -> np.ndarray | None:
    """A [B] sequence or integer tensor as int64 [B]; from 2^63 on, where `high` admits that, modulo 2^64."""
    if values is None:
        return None
    accepted = f"{batch} integers, one per row"
    if isinstance(values, Tensor):
        if values.dtype not in (*_ID_DTYPES, *_OTHER_ID_DTYPES):
            raise TypeError(f"{name}: got dtype {values.dtype}; accepted: {accepted}")
        if list(values.shape) != [batch]:
            raise ValueError(f"{name}: got shape {list(values.shape)}; accepted: {accepted}")
        if values.device.type == "meta":
            raise ValueError(f"{name}: got a tensor on the meta device, which holds no values; accepted: {accepted}")
        result = values.detach().to("cpu", torch.int64).resolve_neg().numpy()
    else:
        if isinstance(values, (str, bytes)) or not isinstance(values, (Sequence, np.ndarray)):
            raise TypeError(f"{name}: got {type(values).__name__}; accepted: {accepted}")
        if len(values) != batch:
            raise ValueError(f"{name}: got {len(values)} values; accepted: {accepted}")
        result = _integers(values, name, accepted, high)
    for row in np.flatnonzero((result < low) & (high < 2**63)):
        raise ValueError(f"row {row}: {name}: got {result[row]}; accepted: at least {low}")
    return np.ascontiguousarray(result)


def check_integer(name: str, value, low: int, high: int = 2**31 - 1) -> int:
    if isinstance(value, bool) or not hasattr(value, "__index__"):
        raise TypeError(f"{name}: got {value!r} ({type(value).__name__}); accepted: an integer from {low} to {high}")
    number = operator.index(value)
    if not low <= number <= high:
        raise ValueError(f"{name}: got {number}; accepted: an integer from {low} to {high}")
    return number


def history_lengths(history: History) -> np.ndarray:
    """Each row's length without its padding, int64 [B]."""
    if not history.padded or history.ids.shape[1] == 0:
        return history.lengths
    real = (history.ids != -1).to("cpu").numpy()
    trailing = np.where(real.any(1), real[:, ::-1].argmax(1), real.shape[1])
    return history.lengths - trailing


def history_rows(history: History, batch: int) -> tuple[list[Tensor], list[int]]:
    """Each row's ids int64 without padding, as the reference takes them, and their lengths."""
    lengths = history_lengths(history).tolist()
    if history.padded:
        return [history.ids[row, : lengths[row]].to(torch.int64) for row in range(batch)], lengths
    begins = np.asarray(history.begins).tolist()
    return [history.ids[begin : begin + n] for begin, n in zip(begins, lengths, strict=True)], lengths


def check_prompt_lengths(prompt_lengths, history: History, batch: int) -> np.ndarray | None:
    """int64 [B], each between 0 and the length of its row's history."""
    result = check_row_integers(prompt_lengths, "prompt_lengths", batch, low=0)
    if result is not None:
        lengths = history_lengths(history)
        for row in np.flatnonzero(result > lengths):
            raise ValueError(
                f"row {row}: prompt_lengths: got {result[row]}; "
                f"accepted: 0 to {lengths[row]}, the length of its history"
            )
    return result


def _padded_history(history: Tensor, batch: int, device: torch.device) -> History:
    history = _empty_as_integers(history)
    if history.dtype not in _ID_DTYPES and history.dtype not in _OTHER_ID_DTYPES:
        raise TypeError(f"history: got dtype {history.dtype}; accepted: {_padded_form(batch)}")
    if history.dim() != 2 or history.shape[0] != batch:
        raise ValueError(f"history: got shape {list(history.shape)}; accepted: {_padded_form(batch)}")
    if history.device != device:
        raise ValueError(f"history: got device {str(history.device)!r}; accepted: {str(device)!r}, the logits' device")
    if history.dtype == torch.uint8 and history.shape[1]:
        for row in (history[:, -1] == 255).nonzero()[:1].tolist():
            raise ValueError(
                f"row {row[0]}: history: got uint8 ids that end with 255, which is what -1 reads as there; "
                "accepted: a type that has -1"
            )
    ids = history if history.dtype in _ID_DTYPES else history.to(torch.int64)
    if ids.shape[1] > 1 and ids.stride(1) != 1:
        ids = ids.contiguous()
    return History(ids, *_even(batch, ids.stride(0), ids.shape[1]), True)


def _padded_form(batch: int) -> str:
    return f"a [{batch}, L] integer tensor, right-padded with -1"


@functools.lru_cache(64)  # a small step takes as long as to make them
def _even(batch: int, stride: int, length: int) -> tuple[np.ndarray, np.ndarray]:
    """begins and lengths of rows at even distances."""
    begins, lengths = np.arange(batch, dtype=np.int64) * stride, np.full(batch, length, np.int64)
    begins.flags.writeable = lengths.flags.writeable = False
    return begins, lengths


def _empty_as_integers(ids: Tensor) -> Tensor:
    # torch.tensor([]) is float32, and no one means that by it.
    return ids.to(torch.int64) if ids.numel() == 0 else ids


def _plain_integers(values) -> np.ndarray | None:
    """int64, where `values` is a list of nothing else than Python's integers: most are, and this is quick."""
    if type(values) not in (list, tuple) or set(map(type, values)) - {int}:
        return None
    try:
        return np.array(values, np.int64)
    except OverflowError:
        return None


def _integers(values, name: str, accepted: str, high: int = 2**63 - 1, too_large: int | None = None) -> np.ndarray:
    result = _plain_integers(values)
    if result is not None:
        return result
    result = np.empty(len(values), np.int64)
    for index, value in enumerate(values):
        try:
            if isinstance(value, (bool, np.bool_)):
                raise TypeError
            number = operator.index(value)
        except TypeError:
            raise TypeError(f"{name}[{index}]: got {value!r} ({type(value).__name__}); accepted: {accepted}") from None
        if not -(2**63) <= number <= high:
            if too_large is None:
                raise ValueError(f"{name}[{index}]: got {number}; accepted: integers of 64 bits")
            number = too_large
        result[index] = number if number < 2**63 else number - 2**64
    return result

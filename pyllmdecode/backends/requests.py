"""Requests as GPU kernels read them (csrc/common/tables.h, Request): a table row each, and the arrays it points to."""

from array import array
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from ..checks import float32_bits
from ..packing import pack_rows
from ..params import SamplingParams
from ..tables import BAD_HISTORY_ID, RECORD_LAYOUT, RECORD_SIZE, TABLE_WORDS, WORD

LOW_BYTES_UNIT = 16  # the CUDA kernel reads so many low bytes at a time, aligned, the last of them in whole as well


class Requests(NamedTuple):
    """B requests: their rows of the table, and what these hold addresses of."""

    table: Tensor  # int64 [B, TABLE_WORDS]
    tokens: Tensor  # int32 [B, room for tokens]
    touched: int  # room of each for touched tokens
    others: tuple


def touches(params: SamplingParams) -> bool:
    """Whether the tokens of the history change their logits."""
    return params.repetition_penalty != 1.0 or params.presence_penalty != 0.0 or params.frequency_penalty != 0.0


def build(
    params: Sequence[SamplingParams],
    seeds: Sequence[int],
    vocab: int,
    ids: Tensor,
    lengths: Tensor,
    prompt_lengths: Tensor,
    positions: Tensor,
    capacity: int,
) -> Requests:
    """ids: int64 [B, L], of which each row's first `lengths` count. Lengths and positions: int64 [B].

    capacity: room for tokens of each, at least L. Nothing waits for the device.
    """
    batch, device = len(params), ids.device
    places = torch.arange(ids.shape[1], dtype=torch.int64, device=device)
    known = places < lengths[:, None]
    inside = known & (ids >= 0) & (ids < vocab)
    tokens = torch.empty(batch, max(capacity, 1), dtype=torch.int32, device=device)
    tokens[:, : ids.shape[1]] = torch.where(inside, ids, -1)
    records, lists = _records(params, seeds, vocab)
    lists = torch.from_numpy(lists).to(device, non_blocking=True)
    low_bytes = _low_bytes(tokens, ids.shape[1]) if any(one.no_repeat_ngram_size > 1 for one in params) else None
    generated = inside & (places >= prompt_lengths[:, None])
    arrays, num_touched, room = _touched(params, vocab, ids, inside, generated, capacity)

    words = np.zeros((batch, TABLE_WORDS), np.int64)
    words[:, : RECORD_SIZE // 8] = records.view(np.int64)
    for name, tensor in zip(("tokens", "low_bytes", *_ARRAYS), (tokens, low_bytes, *arrays)):
        if tensor is not None:
            words[:, WORD[name]] = tensor.data_ptr() + np.arange(batch) * tensor.stride(0) * tensor.element_size()
    words[:, WORD["lists"]] = lists.data_ptr()
    words[:, WORD["penalised"]] = [touches(one) for one in params]
    words[:, WORD["capacity"]] = capacity
    table = torch.from_numpy(words).to(device, non_blocking=True)
    table[:, WORD["length"]] = lengths
    table[:, WORD["prompt_length"]] = prompt_lengths
    table[:, WORD["position"]] = positions
    table[:, WORD["num_touched"]] = num_touched
    table[:, WORD["status"]] = (known & ~inside).any(1) * BAD_HISTORY_ID
    return Requests(table, tokens, room, (low_bytes, lists, *arrays))


def idle() -> Tensor:
    """int64 [TABLE_WORDS]: a request that has no memory of its own, and takes the largest logit."""
    words = np.zeros((1, TABLE_WORDS), np.int64)
    words[:, : RECORD_SIZE // 8] = pack_rows([SamplingParams(temperature=0.0)], [0])[0].view(np.int64)
    return torch.from_numpy(words[0])


def _low_bytes(tokens: Tensor, length: int) -> Tensor:
    """uint8 [B, a multiple of LOW_BYTES_UNIT]: of the first `length` tokens, then zeros."""
    room = -(-tokens.shape[1] // LOW_BYTES_UNIT) * LOW_BYTES_UNIT
    low_bytes = torch.zeros(len(tokens), room, dtype=torch.uint8, device=tokens.device)
    assert low_bytes.data_ptr() % LOW_BYTES_UNIT == 0  # torch aligns to 64 bytes on CPUs, to 512 on GPUs
    low_bytes[:, :length] = tokens[:, :length]
    return low_bytes


_ARRAYS = ("touched_ids", "touched_counts", "touched_x", "touched_bias")


def _touched(
    params: Sequence[SamplingParams], vocab: int, ids: Tensor, inside: Tensor, generated: Tensor, capacity: int
) -> tuple[tuple[Tensor | None, ...], Tensor | int, int]:
    """The arrays of the touched tokens, each [B, room]; how many there are [B]; and room."""
    batch, device = len(params), ids.device
    penalised = [touches(one) for one in params]
    biases = [one.logit_bias or () for one in params]
    if not any(penalised) and not any(biases):
        return (None,) * len(_ARRAYS), 0, 0
    # Histories and biased ids side by side, sorted, so that equal ids are neighbours.
    most = max(len(pairs) for pairs in biases)
    biased = np.full((batch, most), vocab, np.int64)
    values = np.zeros((batch, most), np.uint32)
    for row, pairs in enumerate(biases):
        biased[row, : len(pairs)] = [token for token, _ in pairs]
        values[row, : len(pairs)] = [float32_bits(value) for _, value in pairs]
    seen = inside & torch.from_numpy(np.array(penalised)).to(device, non_blocking=True)[:, None]
    both = torch.cat([torch.where(seen, ids, vocab), torch.from_numpy(biased).to(device, non_blocking=True)], 1)
    nothing = torch.zeros(batch, most, dtype=torch.int32, device=device)
    bias = torch.from_numpy(values.view(np.float32)).to(device, non_blocking=True)
    both, order = both.sort(1)
    first = torch.ones_like(both, dtype=torch.bool)
    first[:, 1:] = both[:, 1:] != both[:, :-1]
    group = first.cumsum(1) - 1

    room = max(1, min(vocab, (capacity if any(penalised) else 0) + most))
    wide = max(room, both.shape[1]) + 1

    def per_token(values: Tensor, dtype: torch.dtype) -> Tensor:
        sums = torch.zeros(batch, wide, dtype=dtype, device=device)
        return sums.scatter_add_(1, group, values.gather(1, order).to(dtype))

    distinct = torch.full((batch, wide), vocab, dtype=torch.int64, device=device).scatter_(1, group, both)
    in_history = per_token(torch.cat([seen.to(torch.int32), nothing], 1), torch.int32)
    counts = per_token(torch.cat([generated.to(torch.int32), nothing], 1), torch.int32)
    counts = torch.where(in_history > 0, counts, -1)
    per_bias = None
    if most:
        per_bias = per_token(torch.cat([torch.zeros_like(seen, dtype=torch.float32), bias], 1), torch.float32)
        per_bias = per_bias[:, :room].contiguous()
    arrays = (distinct[:, :room].to(torch.int32), counts[:, :room].contiguous())
    x = torch.empty(batch, room, dtype=torch.float32, device=device)
    return (*arrays, x, per_bias), (distinct < vocab).sum(1), room


def _records(params: Sequence[SamplingParams], seeds: Sequence[int], vocab: int) -> tuple[np.ndarray, np.ndarray]:
    """Packed records, and the lists they point into, in the form that the kernels read side by side:

    allowed_begin: a bit mask of the tokens that are never allowed, bad words of one token among them, where
    allowed_count is not negative. bad_words_begin: (offset, length) of the sequences of two tokens and more, then
    their ids. eos_begin: ids. The biases are not in the lists (see `_touched`).
    """
    records, _ = pack_rows(params, seeds)
    lists = array("i", [0])  # never empty, so that it has an address
    packed = {}
    for row, one in enumerate(params):
        if one.allowed_token_ids is not None or one.logit_bias or one.bad_words_ids or one.eos_token_ids:
            fields = packed.get(id(one))
            if fields is None:
                fields = packed[id(one)] = _lists(one, vocab, lists)
            for name, value in fields.items():
                offset, size = RECORD_LAYOUT[name]
                records[row, offset : offset + size] = np.frombuffer(value.to_bytes(size, "little", signed=True), "u1")
    return records, np.frombuffer(lists, np.int32).copy()


def _lists(params: SamplingParams, vocab: int, lists: array) -> dict[str, int]:
    sequences = [words for words in params.bad_words_ids or () if len(words) > 1]
    single = [words[0] for words in params.bad_words_ids or () if len(words) == 1]
    fields = {"bias_count": 0, "allowed_count": -1}
    if params.allowed_token_ids is not None or single:
        never = np.zeros(-(-vocab // 32) * 32, np.uint8)
        if params.allowed_token_ids is not None:
            never[:vocab] = 1
            never[list(params.allowed_token_ids)] = 0
        never[single] = 1
        fields |= {"allowed_begin": len(lists), "allowed_count": 1}
        lists.frombytes(np.packbits(never, bitorder="little").tobytes())
    fields |= {"bad_words_begin": len(lists), "bad_words_count": len(sequences)}
    at = len(lists) + 2 * len(sequences)
    for words in sequences:
        lists.extend((at, len(words)))
        at += len(words)
    for words in sequences:
        lists.extend(words)
    eos = params.eos_token_ids or ()
    fields |= {"eos_begin": len(lists), "eos_count": len(eos)}
    lists.extend(eos)
    return fields

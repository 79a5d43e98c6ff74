"""What a request keeps so that steps know of a loop (docs/contract.md, section 9), and its verdict, by whole tensors.

int32: the fields of tables.LOOP_FIELDS, padded to LOOP_HEADER; then `distances` numbers, the largest distance first:
how many of the last generated tokens equal the one so far before them (no more than matter); then `window` marks, at
the place of a generated n-gram's end modulo `window`: 1 where it comes again later in the window. csrc/common/loops.h
and kernels/loops.py bring it up to date with each token. A distance is a size of a block, and also tells whether the
n-gram that just ended stood so far before, so that both kinds of repetition take one comparison.

Everything here is a tensor operation without a look at its result, so that nothing waits for a device.
"""

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from ..detection import RepetitionDetection
from ..inputs import History
from ..output import SampleOutput
from ..params import SamplingParams
from ..tables import LOOP, LOOP_FIELDS, LOOP_HEADER

_AT_ONCE = 1 << 22  # comparisons, so that they take some MB


def build(detection: RepetitionDetection, tokens: Tensor, length: Tensor, prompt_length: Tensor) -> Tensor:
    """tokens: integers [L], the first `length` of which count; outside the vocabulary: -1. Lengths: int64 [1]."""
    device = tokens.device
    state = torch.from_numpy(np.array(_header(detection), np.int32)).to(device, non_blocking=True)
    if not len(tokens):
        tokens = tokens.new_full((1,), -1)
    runs = _runs(detection, tokens, length, prompt_length)
    marks, repeated = _marks(detection, tokens, length, prompt_length)
    state = torch.cat([state, runs, marks])
    state[LOOP_FIELDS.index("repeated")] = repeated
    return state


def verdict(detection: RepetitionDetection, state: Tensor, generated: Tensor) -> tuple[Tensor, Tensor]:
    """-> loop_period int32 [], and whether LOOP is set, bool []. generated: how many tokens there are, int64 [1]."""
    runs = state[LOOP_HEADER : LOOP_HEADER + detection.distances]
    sizes = torch.arange(detection.distances, 0, -1, dtype=torch.int32, device=state.device)
    fits = (sizes >= detection.min_pattern_size) & (sizes <= detection.max_pattern_size)
    found = torch.where(fits & (runs >= sizes * (detection.min_count - 1)), sizes, 2**31 - 1)
    period = torch.cat([found, found.new_tensor([2**31 - 1])]).amin()
    ready = generated[0] >= detection.min_tokens
    period = torch.where(ready & (period < 2**31 - 1), period, 0).to(torch.int32)
    if not detection.window:
        return period, period > 0
    repeated = state[LOOP_FIELDS.index("repeated")]
    alarm = ready & (generated[0] >= detection.window) & (repeated >= detection.repeats)
    return period, (period > 0) | alarm


@torch.no_grad()
def watch(
    output: SampleOutput, params: Sequence[SamplingParams], history: History, prompts, vocab: int
) -> SampleOutput:
    """What a call of `sample` says of its histories with the drawn tokens. prompts: int64 [B] array, or None."""
    if not any(one.watched for one in params):
        return output
    period, status, device = torch.zeros_like(output.status), output.status, output.status.device
    for row, one in enumerate(params):
        if not one.watched:
            continue
        begin, most = int(history.begins[row]), int(history.lengths[row])
        ids = history.ids.as_strided((most,), (1,), history.ids.storage_offset() + begin).to(torch.int64)
        places = torch.arange(1, most + 1, dtype=torch.int64, device=device)
        length = torch.where(ids != -1, places, 0) if history.padded else places
        length = torch.cat([length, length.new_zeros(1)]).amax()[None]
        prompt_length = length if prompts is None else length.new_full((1,), int(prompts[row]))
        drawn = output.token_ids[row : row + 1]
        tokens = torch.where((ids >= 0) & (ids < vocab), ids, -1)
        tokens = torch.nn.functional.pad(tokens, (0, 1)).scatter(0, length, drawn)
        state = build(one.repetition_detection, tokens, length + 1, prompt_length)
        found, loop = verdict(one.repetition_detection, state, length + 1 - prompt_length)
        period[row] = torch.where(drawn[0] >= 0, found, 0)
        status[row] |= LOOP * (loop & (drawn[0] >= 0))
    return output._replace(loop_period=period)


def _header(detection: RepetitionDetection) -> list[int]:
    known = [getattr(detection, name, 0) for name in LOOP_FIELDS]
    return known + [0] * (LOOP_HEADER - len(known))


def _last(tokens: Tensor, count: int, length: Tensor, prompt_length: Tensor) -> Tensor:
    """int64 [count]: the last generated tokens, -1 where there are fewer."""
    places = length - count + torch.arange(count, dtype=torch.int64, device=tokens.device)
    found = tokens[places.clamp(0, len(tokens) - 1)].to(torch.int64)
    return torch.where((places >= prompt_length) & (places >= 0), found, -1)


def _runs(detection: RepetitionDetection, tokens: Tensor, length: Tensor, prompt_length: Tensor) -> Tensor:
    distances, device = detection.distances, tokens.device
    if not distances:
        return torch.zeros(0, dtype=torch.int32, device=device)
    longest = max(detection.max_pattern_size * (detection.min_count - 1), detection.n if detection.window else 1)
    longest = min(longest, len(tokens))
    windows = _last(tokens, distances + longest, length, prompt_length).unfold(0, longest, 1)
    now, places = windows[-1], torch.arange(longest, dtype=torch.int32, device=device)
    step, parts = max(1, _AT_ONCE // longest), []
    for first in range(0, distances, step):
        differ = (windows[first : min(first + step, distances)] != now) | (now < 0)
        parts.append(longest - 1 - torch.where(differ, places, -1).amax(1))
    return torch.cat(parts).to(torch.int32)


def _marks(detection: RepetitionDetection, tokens: Tensor, length: Tensor, prompt_length: Tensor):
    """-> marks int32 [window], and how many n-grams of the window stood in it before, int32 []."""
    window, n, device = detection.window, detection.n, tokens.device
    if not window:
        return torch.zeros(0, dtype=torch.int32, device=device), torch.zeros((), dtype=torch.int32, device=device)
    codes = _grams(_last(tokens, window, length, prompt_length), n)
    ranks, order = codes.sort(stable=True)
    same = ranks[1:] == ranks[:-1]
    again = torch.zeros(window, dtype=torch.int32, device=device)
    again[n - 1 :].scatter_(0, order[:-1], same.to(torch.int32))
    ends = length - prompt_length - window + torch.arange(window, dtype=torch.int64, device=device)
    return torch.zeros_like(again).scatter_(0, ends.remainder(window), again), same.sum().to(torch.int32)


def _grams(tokens: Tensor, n: int) -> Tensor:
    """int64 [T - n + 1]: equal for equal n-grams; one with -1 equals no other."""
    places = torch.arange(len(tokens), dtype=torch.int64, device=tokens.device)
    codes, length = _ranks(torch.where(tokens < 0, 2**40 + places, tokens)), 1
    while length < n:
        step = min(length, n - length)
        codes = _ranks(codes[:-step] * len(tokens) + codes[step:])
        length += step
    return codes


def _ranks(values: Tensor) -> Tensor:
    sorted_values, order = values.sort()
    first = torch.ones_like(sorted_values)
    first[1:] = sorted_values[1:] != sorted_values[:-1]
    return torch.empty_like(values).scatter_(0, order, first.cumsum(0) - 1)

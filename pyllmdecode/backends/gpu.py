"""What the host sides of the GPU backends share. Each of them, triton.py and cuda.py, has:

    why_not() -> str | None    why no kernel can run here, in a sentence; None where one can
    describe() -> str          what it runs on, in a sentence
    Step(vocab, rows, device)  steps over at most `rows` rows, and the workspace they share; with these methods:

    run(logits, slots, table, outputs, uniforms, wanted, *, history, touched, advance, decided) -> SampleOutput
        All of a step. logits: [B, V]. slots: int64 [B], rows of the table (requests.py). outputs: Outputs(B, device).
        uniforms: int64 [B] or None. wanted: see logprobs.py. history, touched: the most of either that a request has
        room for. advance: append to the histories. decided: every row is greedy or has top-k.
    process_logits(logits, out, slots, table, outputs, *, history, touched) -> None
        Scores over the temperature into out, float32 [B, V], which may be the logits.
    warm_up(dtype, table) -> None
        Compiles and loads what `run` may launch for logits of this type.

Nothing waits for the device. A run with decided=True compiles what one with decided=False needs too, as that is what a
CUDA graph captures. After process_logits, or run without `advance`, a Step is used up: its workspace is left as it was
in the middle of a step.
"""

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from ..inputs import History
from ..logprobs import Wanted
from ..output import SampleOutput
from ..params import FLOAT32_MAX, LOG2_E, SamplingParams
from ..tables import PROCESSED, RAW, RECORD_LAYOUT
from .requests import Requests, build

_TEMPERATURE = RECORD_LAYOUT["temperature"][0] // 8  # word of the table
_ASKED = RECORD_LAYOUT["logprobs"][0] // 4  # half a word, and `top_logprobs` is the next


class Outputs:
    """What a step writes for a number of rows: one allocation, and its parts."""

    def __init__(self, rows: int, device: torch.device):
        self.rows = rows
        self.memory = torch.empty(5 * rows, dtype=torch.int64, device=device)
        self.token_ids, self.kept, words, self.ranks, rest = self.memory.view(5, rows).unbind()
        words, rest = words.view(torch.int32), rest.view(torch.int32)
        self.status, self.processed = words[:rows], words[rows:].view(torch.float32)
        self.raw, self.loop_period = rest[:rows].view(torch.float32), rest[rows:]
        self.bare = SampleOutput(self.token_ids, None, None, None, self.kept, self.status)
        self.address = self.memory.data_ptr()


class ReusedOutputs:
    """The same again for as many rows as last time, as long as the memory is where it was."""

    def __init__(self, device: torch.device):
        self.device, self.last = device, None

    def __call__(self, rows: int) -> Outputs:
        last, places = self.last or (None, None)
        if last is None or last.rows != rows or _places(last) != places:
            with torch.inference_mode(False):  # whose tensors could not be used outside it
                last = Outputs(rows, self.device)
            self.last = last, _places(last)
        return last


def _places(outputs: Outputs) -> tuple[int, ...]:
    return tuple(t.data_ptr() for t in (outputs.token_ids, outputs.kept, outputs.status, outputs.processed))


def sample_step(
    step_type: type,
    logits: Tensor,
    params: Sequence[SamplingParams],
    seeds: list[int],
    history: History,
    prompt_lengths: np.ndarray | None,
    positions: np.ndarray | None,
    uniforms: np.ndarray | None,
    wanted: Wanted | None,
) -> SampleOutput:
    """Draws a token for every row; the arguments have been checked (inputs.py). step_type: a backend's Step."""
    (batch, vocab), device = logits.shape, logits.device
    requests = _requests(logits, params, seeds, history, prompt_lengths, positions)
    bits = None if uniforms is None else torch.from_numpy(uniforms).to(device)
    return step_type(vocab, batch, device).run(
        logits,
        torch.arange(batch, dtype=torch.int64, device=device),
        requests.table,
        Outputs(batch, device),
        bits,
        wanted,
        history=requests.tokens.shape[1],
        touched=requests.touched,
        advance=False,
        decided=False,
    )


def process_logits(
    step_type: type,
    logits: Tensor,
    params: Sequence[SamplingParams],
    history: History,
    prompt_lengths: np.ndarray | None,
    out: Tensor,
) -> None:
    """Writes the processed logits of every row to `out`, float32 [B, V], which may be `logits` itself."""
    (batch, vocab), device = logits.shape, logits.device
    requests = _requests(logits, params, [0] * batch, history, prompt_lengths, None)
    step_type(vocab, batch, device).process_logits(
        logits,
        out,
        torch.arange(batch, dtype=torch.int64, device=device),
        requests.table,
        Outputs(batch, device),
        history=requests.tokens.shape[1],
        touched=requests.touched,
    )


def _requests(
    logits: Tensor,
    params: Sequence[SamplingParams],
    seeds: list[int],
    history: History,
    prompt_lengths: np.ndarray | None,
    positions: np.ndarray | None,
) -> Requests:
    device = logits.device
    lengths = torch.from_numpy(history.lengths).to(device)
    if history.padded:
        ids = history.ids.to(torch.int64)
        places = torch.arange(1, ids.shape[1] + 1, dtype=torch.int64, device=device)
        lengths = torch.where(ids != -1, places, 0).amax(1) if ids.numel() else lengths
    else:
        longest = int(history.lengths.max(initial=0))
        places = torch.arange(longest, dtype=torch.int64, device=device)
        at = torch.from_numpy(history.begins).to(device)[:, None] + torch.where(places < lengths[:, None], places, 0)
        ids = history.ids[at]

    def given(values, otherwise):
        return otherwise if values is None else torch.from_numpy(values).to(device)

    prompts, places = given(prompt_lengths, lengths), given(positions, lengths)
    return build(params, seeds, logits.shape[1], ids, lengths, prompts, places, ids.shape[1])


def chosen(outputs: Outputs, wanted: Wanted, table: Tensor, slots: Tensor) -> SampleOutput:
    """What is said of the drawn tokens, each row's as it asked."""
    result = outputs.bare
    if not wanted.mixed:
        return result._replace(
            logprobs=(outputs.processed if wanted.processed else outputs.raw) if wanted.chosen else None,
            raw_logprobs=outputs.raw if wanted.both else None,
            ranks=outputs.ranks if wanted.raw else None,
        )
    kinds, tops = _asked(wanted, table, slots)
    raw = torch.where((kinds & RAW) != 0, outputs.raw, torch.nan) if wanted.raw else torch.nan
    says_raw = ((kinds & RAW) != 0) | ((kinds == 0) & (tops > 0))
    logprobs = torch.where((kinds & PROCESSED) != 0, outputs.processed, raw) if wanted.processed else raw
    return result._replace(
        logprobs=logprobs if wanted.chosen else None,
        raw_logprobs=raw if wanted.both else None,
        ranks=torch.where(says_raw, outputs.ranks, 0) if wanted.raw else None,
    )


def lists(wanted: Wanted, table: Tensor, slots: Tensor, raw, processed) -> tuple[Tensor, Tensor]:
    """ids int64 and logprobs float32 [B, wanted.width] of each row's most probable tokens, as it asked.

    raw, processed: x, maximum and log_sum as `most_probable` takes them; the one that nobody lists is None.
    """
    x, maximum, log_sum = raw or processed
    temperature = temperatures(table, slots) if processed else torch.ones_like(maximum)
    kinds, tops = _asked(wanted, table, slots) if wanted.mixed else (None, None)
    if raw and processed:
        is_processed = (kinds & PROCESSED) != 0
        x, maximum, log_sum = (
            torch.where(is_processed.view(-1, *[1] * (a.dim() - 1)), b, a) for a, b in zip(raw, processed)
        )
        temperature = torch.where(is_processed, temperature, 1.0)
    ids, values = most_probable(x, maximum, log_sum, temperature, wanted.width)
    if tops is None:
        return ids, values
    listed = torch.arange(wanted.width, dtype=torch.int64, device=ids.device) < tops[:, None]
    return torch.where(listed, ids, -1), torch.where(listed, values, -torch.inf)


def _asked(wanted: Wanted, table: Tensor, slots: Tensor) -> tuple[Tensor, Tensor]:
    """Each row's kinds of log-probabilities, RAW | PROCESSED, and length of its list, int32 [B]."""
    kinds, tops = table.view(torch.int32)[slots, _ASKED : _ASKED + 2].unbind(1)
    return torch.where(kinds == 0, wanted.kind, kinds), torch.where(tops == 0, wanted.top, tops)


@torch.no_grad()
def sanitised(logits: Tensor) -> Tensor:
    """Stage 1 as float32: NaN is -inf."""
    x = logits.to(torch.float32)
    return torch.where(x == x, x, -torch.inf)


def temperatures(table: Tensor, slots: Tensor) -> Tensor:
    """float64 [B], 0 for greedy rows."""
    return table[slots, _TEMPERATURE].view(torch.float64)


@torch.no_grad()
def most_probable(
    x: Tensor, maximum: Tensor, log_sum: Tensor, temperature: Tensor, count: int
) -> tuple[Tensor, Tensor]:
    """ids int64 and logprobs float32 [B, count] of the most probable tokens, ties by lowest id, in plain torch.

    x: float32 [B, V], undivided, -inf for what is not kept. Of each row, float64 [B]: its maximum, the logarithm of the
    sum of its masses over 2^MASS_BITS (unread where greedy), and its temperature (0: greedy).
    """
    greedy = temperature == 0
    log_sum = torch.where(greedy, 0.0, log_sum)
    temperature = torch.where(greedy, 1.0, temperature).clamp(min=LOG2_E / FLOAT32_MAX)
    ids = _largest(x, min(count, x.shape[1]))
    x = x.gather(1, ids)
    ids = torch.where(x > -torch.inf, ids, -1)
    maximum = maximum[:, None]
    d = torch.where(x == maximum, 0.0, x.double() - maximum)
    d = torch.where((x == maximum) | (x - maximum.float() > -torch.inf), d, -torch.inf)
    values = (d / temperature[:, None] - log_sum[:, None]).float()
    values = torch.where(ids >= 0, values, -torch.inf)
    more = (0, count - ids.shape[1])
    return torch.nn.functional.pad(ids, more, value=-1), torch.nn.functional.pad(values, more, value=-torch.inf)


def _largest(x: Tensor, count: int) -> Tensor:
    """Ids int64 [B, count] by falling x, then rising id: the key of x in the high word, the id in the low one."""
    bits = torch.where(x == 0, 0.0, x).view(torch.int32)
    keys = (bits ^ ((bits >> 31) & 0x7FFFFFFF)).to(torch.int64) << 32
    keys |= 0xFFFFFFFF - torch.arange(x.shape[1], dtype=torch.int64, device=x.device)
    return 0xFFFFFFFF - (keys.topk(count).values & 0xFFFFFFFF)

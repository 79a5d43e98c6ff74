"""The Triton backend's host side: requests as the kernels read them, a workspace, and the launches of a step.

Without a GPU the kernels run in Triton's interpreter where the environment variable TRITON_INTERPRET=1 was set before
the import: far slower than the CPU backend, and meant for tests.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
import triton
from torch import Tensor

from .inputs import History
from .kernels import layout
from .kernels.draw import ADVANCE, UNIFORMS, advance
from .kernels.edits import edits
from .kernels.logprobs import raw_logprobs
from .kernels.process_logits import process_logits as process_logits_kernel
from .kernels.sample_step import conclude, decide, masses, scan
from .output import SampleOutput
from .params import FLOAT32_MAX, LOG2_E, SamplingParams
from .triton_launch import INTERPRETED, launcher
from .triton_requests import Requests, build

HISTORY_SHARE = 8192  # tokens of history per program of `edits`, two of its blocks
TOUCHED_SHARE = 8192  # touched tokens per program: as many as a program of `scan` reads of the row


class Config(NamedTuple):
    """Sizes that the kernels are compiled for; each a power of two. The results do not depend on them.

    Every row gets ceil(V / (32 * chunk)) programs, whatever the batch: 16 for a vocabulary of 128256. That is enough to
    spread one row over the device, and few enough that a program has work for some microseconds. Up to `merged` of them
    together, about as many as a large GPU runs at a time, the stages share launches (see kernels/sample_step.py).
    """

    chunk: int = 256  # groups of 32 tokens that a program of `scan` holds in registers, 32 a thread
    tile: int = 1024  # tokens whose masses are one number, 4 a thread
    capacity: int = 8192  # tokens that a row's list has room for
    sample: int = 4096  # tokens, of which top-p's bracket is guessed; at most `capacity`
    warps: int = 8
    merged: int = 256


CONFIG = Config()
_ADVANCE, _UNIFORMS = ADVANCE.value, UNIFORMS.value


def why_not() -> str | None:
    """Why no kernel can run here, in a sentence; None where one can."""
    if INTERPRETED or torch.cuda.is_available():
        return None
    return "Triton found no GPU that torch can use."


def describe() -> str:
    if INTERPRETED:
        return f"Triton {triton.__version__}, interpreted on the CPU (TRITON_INTERPRET=1), for tests."
    return f"Triton {triton.__version__} on {torch.cuda.get_device_name()}."


def sample_step(
    logits: Tensor,
    params: Sequence[SamplingParams],
    seeds: list[int],
    history: History,
    prompt_lengths: np.ndarray | None,
    positions: np.ndarray | None,
    uniforms: np.ndarray | None,
    logprobs: str | None,
    top_logprobs: int,
) -> SampleOutput:
    """Draws a token for every row; the arguments have been checked (inputs.py)."""
    batch, vocab = logits.shape
    requests = _stateless(logits, params, seeds, history, prompt_lengths, positions)
    step, outputs = Step(vocab, batch, logits.device), Outputs(batch, logits.device)
    bits = None if uniforms is None else torch.from_numpy(uniforms).to(logits.device)
    slots = torch.arange(batch, device=logits.device)
    room = requests.tokens.shape[1]
    step.run(logits, slots, requests.table, outputs, bits, room, requests.touched, advance=False, decided=False)
    return step.output(logits, slots, requests.table, outputs, logprobs, top_logprobs, requests.touched)


def process_logits(
    logits: Tensor, params: Sequence[SamplingParams], history: History, prompt_lengths: np.ndarray | None, out: Tensor
) -> None:
    """Writes the processed logits of every row to `out`, float32 [B, V], which may be `logits` itself."""
    batch, vocab = logits.shape
    requests = _stateless(logits, params, [0] * batch, history, prompt_lengths, None)
    step, outputs = Step(vocab, batch, logits.device), Outputs(batch, logits.device)
    slots = torch.arange(batch, device=logits.device)
    room = requests.tokens.shape[1]
    step.run(logits, slots, requests.table, outputs, None, room, requests.touched, advance=False, decided=False)
    step.write_scores(logits, out, slots, requests.table, outputs, requests.touched, divide=True)


def _stateless(
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
        places = torch.arange(1, ids.shape[1] + 1, device=device)
        lengths = torch.where(ids != -1, places, 0).amax(1) if ids.numel() else lengths
    else:
        longest = int(history.lengths.max(initial=0))
        places = torch.arange(longest, device=device)
        at = torch.from_numpy(history.begins).to(device)[:, None] + torch.where(places < lengths[:, None], places, 0)
        ids = history.ids[at]

    def given(values, otherwise):
        return otherwise if values is None else torch.from_numpy(values).to(device)

    prompts, places = given(prompt_lengths, lengths), given(positions, lengths)
    return build(params, seeds, logits.shape[1], ids, lengths, prompts, places, ids.shape[1])


class Outputs:
    """What `kernels/draw.py` writes for a number of rows: one allocation, and its parts."""

    def __init__(self, rows: int, device: torch.device):
        self.memory = torch.empty(3 * rows, dtype=torch.int64, device=device)
        words = self.memory[2 * rows :].view(torch.int32)
        self.token_ids, self.kept = self.memory[:rows], self.memory[rows : 2 * rows]
        self.status, self.logprobs = words[:rows], words[rows:].view(torch.float32)
        self.bare = SampleOutput(self.token_ids, None, None, None, self.kept, self.status)


class Step:
    """The launches of a step over at most `rows` rows, and the workspace they share."""

    def __init__(self, vocab: int, rows: int, device: torch.device):
        self.vocab, self.device, self.config = vocab, device, CONFIG
        self.words = layout.workspace_words(vocab, self.config.tile, self.config.capacity)
        self.workspace = torch.zeros(rows * self.words, dtype=torch.int32, device=device)
        self.row_parts = -(-vocab // (32 * self.config.chunk))
        self.launch = launcher(device)

    def run(
        self,
        logits: Tensor,
        slots: Tensor,
        table: Tensor,
        outputs: Outputs,
        uniforms: Tensor | None,
        history: int,
        touched: int,
        advance: bool,
        decided: bool,
    ) -> None:
        """Stages 1 to 10. uniforms: int64 [B]. history, touched: the most of either that a request has room for.

        advance: append to the histories. decided: no row needs its masses summed (see kernels/sample_step.py).
        """
        rows, config = len(slots), self.config
        if rows == 0:
            return
        merged = rows * self._parts(touched) <= config.merged
        self.launch(
            *self._launches(
                logits, is_aligned(logits), merged, slots, table, outputs, uniforms, history, touched, advance, decided
            )
        )

    def warm_up(self, dtype: torch.dtype, table: Tensor) -> None:
        """Compiles all that `run` may launch for logits of this type."""
        logits = torch.zeros(1, 16, dtype=dtype, device=self.device)
        slots, outputs = torch.zeros(1, dtype=torch.int64, device=self.device), Outputs(1, self.device)
        # A vocabulary that eight does not divide is never aligned.
        for aligned in {self.vocab % 8 == 0, False}:
            for merged in (True, False):
                given = logits if aligned else logits[:, 1:]
                for launch in self._launches(
                    given, aligned, merged, slots, table, outputs, None, 1, 1, advance=True, decided=False
                ):
                    self.launch.compile(*launch)

    def _parts(self, touched: int) -> int:
        return self.row_parts + -(-touched // TOUCHED_SHARE)

    def _launches(
        self, logits, aligned, merged, slots, table, outputs, uniforms, history, touched, advance, decided
    ) -> list[tuple]:
        """(kernel, programs, warps, arguments, constants) of each launch, in order."""
        rows, vocab, workspace = len(slots), self.vocab, self.workspace
        chunk, tile, capacity, sample, warps, _ = self.config
        parts, edit_parts = self._parts(touched), max(1, -(-history // HISTORY_SHARE))
        options = (_ADVANCE if advance else 0) | (0 if uniforms is None else _UNIFORMS)
        bits = slots if uniforms is None else uniforms
        common = (logits, logits.stride(0), vocab, slots, table, workspace, bits, outputs.memory, rows, options)
        spread = (*common, self.row_parts, parts)
        launches = [
            (edits, rows * edit_parts, 4, (slots, table, workspace, vocab, edit_parts), (tile, capacity)),
            (scan, rows * parts, warps, spread, (aligned, chunk, tile, capacity, sample, merged)),
        ]
        if not merged:
            launches.append((decide, rows, warps, common, (aligned, tile, capacity, sample)))
        if vocab > capacity and not decided:
            launches.append((masses, rows * parts, warps, spread, (aligned, chunk, tile, capacity, merged)))
            if not merged:
                launches.append((conclude, rows, warps, common, (aligned, tile, capacity)))
        return launches

    def output(
        self,
        logits: Tensor,
        slots: Tensor,
        table: Tensor,
        outputs: Outputs,
        logprobs: str | None,
        top: int,
        touched: int,
    ) -> SampleOutput:
        """The step's output, with log-probabilities as asked. Before another step writes to the same rows."""
        result = SampleOutput(outputs.token_ids, None, None, None, outputs.kept, outputs.status)
        if logprobs == "processed":
            result = result._replace(logprobs=outputs.logprobs)
        elif logprobs == "raw":
            self.raw_logprobs(logits, outputs)
            result = result._replace(logprobs=outputs.logprobs)
        if top:
            ids, values = self.most_probable(logits, slots, table, outputs, logprobs, top, touched)
            result = result._replace(top_ids=ids, top_logprobs=values)
        return result

    def raw_logprobs(self, logits: Tensor, outputs: Outputs) -> Tensor:
        """Log-probabilities of the drawn tokens into `outputs`; -> float32 [B, 2], see kernels/logprobs.py."""
        sums = torch.empty(len(logits), 2, device=self.device)
        if len(logits):
            arguments = (logits, logits.stride(0), self.vocab, outputs.token_ids, outputs.logprobs, sums)
            self.launch((raw_logprobs, len(logits), self.config.warps, arguments, (is_aligned(logits),)))
        return sums

    def write_scores(
        self, logits: Tensor, out: Tensor, slots: Tensor, table: Tensor, outputs: Outputs, touched: int, divide: bool
    ) -> None:
        """After a run without `advance`: what is kept, over the temperature if `divide`, and -inf elsewhere."""
        rows, config = len(slots), self.config
        if rows == 0:
            return
        parts = self.row_parts + -(-touched // TOUCHED_SHARE)
        arguments = (logits, logits.stride(0), out, out.stride(0), self.vocab, slots, table, self.workspace)
        arguments += (outputs.token_ids, int(divide), self.row_parts, parts)
        sizes = (is_aligned(logits) and is_aligned(out), config.chunk, config.tile, config.capacity)
        self.launch((process_logits_kernel, rows * parts, config.warps, arguments, sizes))

    def advance(self, slots: Tensor, table: Tensor, outputs: Outputs) -> None:
        """Ends a run that was made without `advance`."""
        if len(slots):
            arguments = (slots, table, self.workspace, outputs.token_ids, self.vocab)
            self.launch((advance, len(slots), 4, arguments, (self.config.tile, self.config.capacity)))

    @torch.no_grad()
    def most_probable(
        self,
        logits: Tensor,
        slots: Tensor,
        table: Tensor,
        outputs: Outputs,
        logprobs: str | None,
        count: int,
        touched: int,
    ) -> tuple[Tensor, Tensor]:
        """ids int64 and logprobs float32 [B, count] of the most probable tokens, ties by lowest id, in plain torch.

        After a run without `advance`.
        """
        if logprobs == "processed":
            x = torch.empty(logits.shape, device=self.device)
            self.write_scores(logits, x, slots, table, outputs, touched, divide=False)
            rows = self.workspace.view(-1, self.words)[: len(slots)]
            maximum = rows.view(torch.float32)[:, layout.MAXIMUM.value].double()
            sums = (rows.view(torch.int64)[:, layout.KEPT_MASS.value].double() * 2.0**-40).log()
            temperature = table[slots, layout.TEMPERATURE.value].view(torch.float64)
            sums = torch.where(temperature == 0, 0.0, sums)
            temperature = torch.where(temperature == 0, 1.0, temperature).clamp(min=LOG2_E / FLOAT32_MAX)
        else:
            x = logits.to(torch.float32)
            x = torch.where(x == x, x, -torch.inf)
            maximum, sums = self.raw_logprobs(logits, outputs).double().unbind(1)
            temperature = torch.ones_like(sums)
        ids = _largest(x, min(count, self.vocab))
        x = x.gather(1, ids)
        ids = torch.where(x > -torch.inf, ids, -1)
        maximum = maximum[:, None]
        d = torch.where(x == maximum, 0.0, x.double() - maximum)
        d = torch.where((x == maximum) | (x - maximum.float() > -torch.inf), d, -torch.inf)
        values = (d / temperature[:, None] - sums[:, None]).float()
        values = torch.where(ids >= 0, values, -torch.inf)
        more = (0, count - ids.shape[1])
        return torch.nn.functional.pad(ids, more, value=-1), torch.nn.functional.pad(values, more, value=-torch.inf)


def _largest(x: Tensor, count: int) -> Tensor:
    """Ids int64 [B, count] by falling x, then rising id: the key of x in the high word, the id in the low one."""
    bits = torch.where(x == 0, 0.0, x).view(torch.int32)
    keys = (bits ^ ((bits >> 31) & 0x7FFFFFFF)).to(torch.int64) << 32
    keys |= 0xFFFFFFFF - torch.arange(x.shape[1], device=x.device)
    return 0xFFFFFFFF - (keys.topk(count).values & 0xFFFFFFFF)


def is_aligned(logits: Tensor) -> bool:
    """Whether every row begins at 16 bytes and ends with a whole vector, so that loads can be wide."""
    return logits.data_ptr() % 16 == 0 and logits.stride(0) % 8 == 0 and logits.shape[1] % 8 == 0

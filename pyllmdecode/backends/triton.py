"""The Triton backend's host side (see gpu.py): a workspace, and the launches of a step.

Without a GPU the kernels run in Triton's interpreter where the environment variable TRITON_INTERPRET=1 was set before
the import: far slower than the CPU backend, and meant for tests.
"""

from typing import NamedTuple

import torch
import triton
from torch import Tensor

from ..kernels import layout
from ..kernels.draw import ADVANCE, UNIFORMS, advance
from ..kernels.edits import edits
from ..kernels.logprobs import raw_logprobs
from ..kernels.process_logits import process_logits as process_logits_kernel
from ..kernels.sample_step import conclude, decide, masses, scan
from ..output import SampleOutput
from ..tables import MASS_BITS
from .gpu import Outputs, most_probable, sanitised, temperatures
from .triton_launch import INTERPRETED, launcher

DEVICE_TYPE = "cpu" if INTERPRETED else "cuda"  # of the tensors that it takes
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


def why_not_on(device: torch.device) -> None:
    """The same of one device: the kernels are compiled for whatever it is."""


def describe() -> str:
    if INTERPRETED:
        return f"Triton {triton.__version__}, interpreted on the CPU (TRITON_INTERPRET=1), for tests."
    return f"Triton {triton.__version__} on {torch.cuda.get_device_name()}."


class Step:
    """The launches of a step, and the workspace they share."""

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
        logprobs: str | None,
        top: int,
        *,
        history: int,
        touched: int,
        advance: bool,
        decided: bool,
    ) -> SampleOutput:
        # A list of processed log-probabilities is made from what the end of a step clears.
        later = top > 0 and logprobs == "processed"
        self._run(logits, slots, table, outputs, uniforms, history, touched, advance and not later, decided)
        if logprobs is None and not top:
            return outputs.bare
        sums = None if logprobs == "processed" else self._raw_logprobs(logits, outputs)
        result = outputs.bare if logprobs is None else outputs.bare._replace(logprobs=outputs.logprobs)
        if not top:
            return result
        if sums is None:
            ids, values = self._most_probable(logits, slots, table, outputs, top, touched)
            if advance:
                self._advance(slots, table, outputs)
        else:
            maximum, log_sum = sums.double().unbind(1)
            ids, values = most_probable(sanitised(logits), maximum, log_sum, torch.ones_like(log_sum), top)
        return result._replace(top_ids=ids, top_logprobs=values)

    def process_logits(
        self, logits: Tensor, out: Tensor, slots: Tensor, table: Tensor, outputs: Outputs, *, history: int, touched: int
    ) -> None:
        self._run(logits, slots, table, outputs, None, history, touched, advance=False, decided=False)
        self._write_scores(logits, out, slots, table, outputs, touched, divide=True)

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

    def _run(
        self, logits, slots, table, outputs, uniforms, history: int, touched: int, advance: bool, decided: bool
    ) -> None:
        """Stages 1 to 10. decided: nobody needs the launches that follow `decide` (see kernels/sample_step.py)."""
        rows = len(slots)
        if rows == 0:
            return
        merged = rows * self._parts(touched) <= self.config.merged
        self.launch(
            *self._launches(
                logits, is_aligned(logits), merged, slots, table, outputs, uniforms, history, touched, advance, decided
            )
        )

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

    def _raw_logprobs(self, logits: Tensor, outputs: Outputs) -> Tensor:
        """Log-probabilities of the drawn tokens into `outputs`; -> float32 [B, 2], see kernels/logprobs.py."""
        sums = torch.empty(len(logits), 2, dtype=torch.float32, device=self.device)
        if len(logits):
            arguments = (logits, logits.stride(0), self.vocab, outputs.token_ids, outputs.logprobs, sums)
            self.launch((raw_logprobs, len(logits), self.config.warps, arguments, (is_aligned(logits),)))
        return sums

    def _write_scores(
        self, logits: Tensor, out: Tensor, slots: Tensor, table: Tensor, outputs: Outputs, touched: int, divide: bool
    ) -> None:
        """After a run without `advance`: what is kept, over the temperature if `divide`, and -inf elsewhere."""
        rows, config = len(slots), self.config
        if rows == 0:
            return
        parts = self._parts(touched)
        arguments = (logits, logits.stride(0), out, out.stride(0), self.vocab, slots, table, self.workspace)
        arguments += (outputs.token_ids, int(divide), self.row_parts, parts)
        sizes = (is_aligned(logits) and is_aligned(out), config.chunk, config.tile, config.capacity)
        self.launch((process_logits_kernel, rows * parts, config.warps, arguments, sizes))

    def _advance(self, slots: Tensor, table: Tensor, outputs: Outputs) -> None:
        """Ends a run that was made without `advance`."""
        if len(slots):
            arguments = (slots, table, self.workspace, outputs.memory, len(slots), self.vocab)
            self.launch((advance, len(slots), 4, arguments, (self.config.tile, self.config.capacity)))

    def _most_probable(
        self, logits: Tensor, slots: Tensor, table: Tensor, outputs: Outputs, count: int, touched: int
    ) -> tuple[Tensor, Tensor]:
        """Of the processed distribution. After a run without `advance`."""
        x = torch.empty(logits.shape, dtype=torch.float32, device=self.device)
        self._write_scores(logits, x, slots, table, outputs, touched, divide=False)
        rows = self.workspace.view(-1, self.words)[: len(slots)]
        maximum = rows.view(torch.float32)[:, layout.MAXIMUM.value].double()
        log_sum = (rows.view(torch.int64)[:, layout.KEPT_MASS.value].double() * 2.0**-MASS_BITS).log()
        return most_probable(x, maximum, log_sum, temperatures(table, slots), count)


def is_aligned(logits: Tensor) -> bool:
    """Whether every row begins at 16 bytes and ends with a whole vector, so that loads can be wide."""
    return logits.data_ptr() % 16 == 0 and logits.stride(0) % 8 == 0 and logits.shape[1] % 8 == 0

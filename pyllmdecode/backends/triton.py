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
from ..logprobs import Wanted
from ..output import SampleOutput
from ..tables import MASS_BITS, PROCESSED, RAW
from .gpu import Outputs, chosen, lists, sanitised
from .triton_launch import INTERPRETED, launcher

DEVICE_TYPE = "cpu" if INTERPRETED else "cuda"  # of the tensors that it takes
HISTORY_SHARE = 8192  # tokens of history per program of `edits`, two of its blocks
TOUCHED_SHARE = 8192  # touched tokens per program: as many as a program of `scan` reads of the row,
TOUCHED_PROGRAMS = 2  # and so many of a row's at most, as long histories have room for more tokens than they know


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
        self.vocab, self.device = vocab, device
        # Merged stages need what all waves of a program have stored, which a release on AMD's GPUs may leave out
        # (LLVM's pull request 161638).
        self.config = CONFIG._replace(merged=0) if torch.version.hip else CONFIG
        self.words = layout.workspace_words(vocab, self.config.tile, self.config.capacity)
        self.workspace = torch.zeros(rows * self.words, dtype=torch.int32, device=device)
        self.row_parts = -(-vocab // (32 * self.config.chunk))
        self.sums = torch.empty(rows, 2, dtype=torch.float32, device=device)  # see kernels/logprobs.py
        self.launch = launcher(device)
        self.ready: set[tuple] = set()  # types, alignments and sizes of which all kernels are compiled

    def run(
        self,
        logits: Tensor,
        slots: Tensor,
        table: Tensor,
        outputs: Outputs,
        uniforms: Tensor | None,
        wanted: Wanted | None,
        *,
        history: int,
        touched: int,
        advance: bool,
        decided: bool,
    ) -> SampleOutput:
        # A list of processed log-probabilities is made from what the end of a step clears.
        later = wanted is not None and bool(wanted.lists & PROCESSED)
        self._run(logits, slots, table, outputs, uniforms, history, touched, advance and not later, decided)
        if wanted is None:
            return outputs.bare
        processed = self._processed(logits, slots, table, outputs, touched) if wanted.lists & PROCESSED else None
        if later and advance:
            self._start(self._advance_launch(slots, table, outputs))
        if wanted.raw:
            self._start(self._raw_launch(logits, is_aligned(logits), outputs))
        result = chosen(outputs, wanted, table, slots)
        if not wanted.width:
            return result
        raw = None
        if wanted.lists & RAW:
            raw = sanitised(logits), *self.sums[: outputs.rows].double().unbind(1)
        ids, values = lists(wanted, table, slots, raw, processed)
        return result._replace(top_ids=ids, top_logprobs=values)

    def process_logits(
        self, logits: Tensor, out: Tensor, slots: Tensor, table: Tensor, outputs: Outputs, *, history: int, touched: int
    ) -> None:
        self._run(logits, slots, table, outputs, None, history, touched, advance=False, decided=False)
        self._start(self._scores_launch(logits, out, slots, table, outputs, touched, divide=True))

    def warm_up(self, dtype: torch.dtype, table: Tensor) -> None:
        """Compiles all that `run` and `process_logits` may launch for logits of this type."""
        logits, scores = (torch.zeros(1, 16, dtype=one, device=self.device) for one in (dtype, torch.float32))
        slots, outputs = torch.zeros(1, dtype=torch.int64, device=self.device), Outputs(1, self.device)
        self.launch.compile(*self._advance_launch(slots, table, outputs))
        # A vocabulary that eight does not divide is never aligned.
        for aligned in {self.vocab % 8 == 0, False}:
            given = logits if aligned else logits[:, 1:]
            self.launch.compile(*self._raw_launch(given, aligned, outputs))
            kernel, programs, warps, arguments, sizes = self._scores_launch(
                given, scores, slots, table, outputs, 1, divide=True
            )
            self.launch.compile(kernel, programs, warps, arguments, (aligned, *sizes[1:]))
            for merged in {self.config.merged > 0, False}:
                for launch in self._launches(
                    given, aligned, merged, slots, table, outputs, None, 1, 1, advance=True, decided=False
                ):
                    self.launch.compile(*launch)
                self.ready.add((dtype, aligned, merged))

    def _run(
        self, logits, slots, table, outputs, uniforms, history: int, touched: int, advance: bool, decided: bool
    ) -> None:
        """Stages 1 to 10. decided: nobody needs the launches that follow `decide` (see kernels/sample_step.py)."""
        rows = len(slots)
        if rows == 0:
            return
        aligned, merged = is_aligned(logits), rows * self._parts(touched) <= self.config.merged
        launches = self._launches(
            logits, aligned, merged, slots, table, outputs, uniforms, history, touched, advance, decided
        )
        if decided and (logits.dtype, aligned, merged) not in self.ready:
            # Whoever captures this step in a CUDA graph captures all launches, and cannot compile then.
            for launch in self._launches(
                logits, aligned, merged, slots, table, outputs, uniforms, history, touched, advance, decided=False
            ):
                self.launch.compile(*launch)
            self.ready.add((logits.dtype, aligned, merged))
        self.launch(*launches)

    def _start(self, launch: tuple) -> None:
        if launch[1] > 0:
            self.launch(launch)

    def _parts(self, touched: int) -> int:
        return self.row_parts + min(-(-touched // TOUCHED_SHARE), TOUCHED_PROGRAMS)

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

    def _raw_launch(self, logits: Tensor, aligned: bool, outputs: Outputs) -> tuple:
        """What is said of the drawn tokens into `outputs`, and what lists of them need into `self.sums`."""
        arguments = (logits, logits.stride(0), self.vocab, outputs.token_ids, outputs.raw, outputs.ranks)
        return raw_logprobs, outputs.rows, self.config.warps, (*arguments, self.sums), (aligned,)

    def _scores_launch(
        self, logits: Tensor, out: Tensor, slots: Tensor, table: Tensor, outputs: Outputs, touched: int, divide: bool
    ) -> tuple:
        """After a run without `advance`: what is kept, over the temperature if `divide`, and -inf elsewhere."""
        rows, config, parts = len(slots), self.config, self._parts(touched)
        arguments = (logits, logits.stride(0), out, out.stride(0), self.vocab, slots, table, self.workspace)
        arguments += (int(divide), self.row_parts, parts)
        sizes = (is_aligned(logits) and is_aligned(out), config.chunk, config.tile, config.capacity)
        return process_logits_kernel, rows * parts, config.warps, arguments, sizes

    def _advance_launch(self, slots: Tensor, table: Tensor, outputs: Outputs) -> tuple:
        """Ends a run that was made without `advance`."""
        arguments = (slots, table, self.workspace, outputs.memory, len(slots), self.vocab)
        return advance, len(slots), 4, arguments, (self.config.tile, self.config.capacity)

    def _processed(
        self, logits: Tensor, slots: Tensor, table: Tensor, outputs: Outputs, touched: int
    ) -> tuple[Tensor, Tensor, Tensor]:
        """x, maximum and log_sum of the processed distribution (see gpu.py). After a run without `advance`."""
        x = torch.empty(logits.shape, dtype=torch.float32, device=self.device)
        self._start(self._scores_launch(logits, x, slots, table, outputs, touched, divide=False))
        rows = self.workspace.view(-1, self.words)[: len(slots)]
        maximum = rows.view(torch.float32)[:, layout.MAXIMUM.value].double()
        return x, maximum, (rows.view(torch.int64)[:, layout.KEPT_MASS.value].double() * 2.0**-MASS_BITS).log()


def is_aligned(logits: Tensor) -> bool:
    """Whether every row begins at 16 bytes and ends with a whole vector, so that loads can be wide."""
    return logits.data_ptr() % 16 == 0 and logits.stride(0) % 8 == 0 and logits.shape[1] % 8 == 0

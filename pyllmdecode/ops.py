"""`sample`, `process_logits` and `Sampler.step` as operators of torch, which torch.compile and torch.export can trace.

Only calls that are being traced come here; others go the direct way, as a dispatch takes as long as a small step. The
operators check their arguments when they run, so that a compiled function raises what the call itself raises. What no
operator can take (parameters of a wrong type, say) is an error of the trace, with the same message.
"""

import functools
import itertools
import os
import weakref
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from . import eager, gradient, inputs
from . import logprobs as asked
from .output import SampleOutput
from .params import KINDS, SamplingParams, constant, from_text
from .tables import PROCESSED, RAW

# needs_exact_strides: the tokens of a row have to be adjacent, as they are in eager code. cudagraph_unsafe: a step
# draws seeds, packs parameters and keeps account of histories on the host, which a replay would leave out.
_TAGS = (torch.Tag.needs_exact_strides, torch.Tag.cudagraph_unsafe, torch.Tag.pt2_compliant_tag)
_RESULT = (
    "(Tensor token_ids, Tensor logprobs, Tensor top_ids, Tensor top_logprobs, Tensor kept, Tensor status, "
    "Tensor raw_logprobs, Tensor ranks, Tensor loop_period)"
)
_DTYPES = (torch.int64, torch.float32, torch.int64, torch.float32, torch.int64, torch.int32)
_DTYPES += (torch.float32, torch.int64, torch.int32)

_library = torch.library.Library("pyllmdecode", "DEF")
# Results that were not asked for are empty. params: see `_text`. history is padded, histories has a tensor for each
# row. call: a number of its own for a call that draws seeds, as torch may make one call of two that are the same.
_library.define(
    "sample_step(Tensor logits, str params, Tensor? history, Tensor[]? histories, Tensor? prompt_lengths, "
    "Tensor? positions, Tensor? uniforms, str? logprobs, SymInt top_logprobs, str backend, bool check, int call) -> "
    + _RESULT,
    tags=(*_TAGS, torch.Tag.nondeterministic_seeded),
)
_library.define(
    "process_logits(Tensor logits, str params, Tensor? history, Tensor[]? histories, Tensor? prompt_lengths, "
    "str backend) -> Tensor",
    tags=_TAGS,
)
# An operator too, as what it does depends on the ids of the histories, which a traced backward pass does not know.
_library.define(
    "process_logits_backward(Tensor grad, Tensor logits, Tensor scores, str params, Tensor? history, "
    "Tensor[]? histories) -> Tensor",
    tags=_TAGS,
)
# sampler: see `handle`. It stands for all that a step changes: as it is written to, steps stay in order and are never
# dropped.
_library.define(
    "sampler_step(Tensor(a!) sampler, Tensor logits, Tensor? slots, Tensor? uniforms, str? logprobs, "
    "SymInt top_logprobs, bool check) -> " + _RESULT,
    tags=_TAGS,
)
_ops = torch.ops.pyllmdecode

# From anywhere, so that a saved program does not find a sampler of the process that loads it.
_handles, _calls = itertools.count(1 + int.from_bytes(os.urandom(7))), itertools.count(1)
_samplers: "weakref.WeakValueDictionary[int, object]" = weakref.WeakValueDictionary()


def sample(
    logits, params, history, prompt_lengths, positions, uniforms, logprobs, top_logprobs, backend, check
) -> SampleOutput:
    """`pyllmdecode.sample`, being traced."""
    top = _top(logprobs, top_logprobs)
    text = _text(params, logits)
    drawn = _ops.sample_step(
        _tensor(logits),
        text,
        *_history(history, logits),
        _integers(prompt_lengths, "prompt_lengths", logits),
        _integers(positions, "positions", logits),
        _integers(uniforms, "uniforms", logits),
        logprobs,
        top,
        backend,
        check,
        0 if all('"seed":' in line for line in text.splitlines()) else _next_call(),
    )
    return _output(drawn, _there(logprobs, top, text))


def process_logits(logits, params, history, prompt_lengths, backend) -> Tensor:
    """`pyllmdecode.process_logits`, being traced."""
    text = _text(params, logits)
    prompts = _integers(prompt_lengths, "prompt_lengths", logits)
    if not isinstance(logits, Tensor):
        inputs.check_logits(logits)  # raises
    return _ops.process_logits(logits, text, *_history(history, logits), prompts, backend)


def sampler_step(sampler: Tensor, logits, slots, uniforms, logprobs, top_logprobs, check) -> SampleOutput:
    """`Sampler.step`, being traced, of the sampler with this handle. The tensors returned belong to the caller.

    They are those that the call asks for, and `loop_period`: which requests there will be is not known.
    """
    top = _top(logprobs, top_logprobs)
    rows, bits = _integers(slots, "slots", logits), _integers(uniforms, "uniforms", logits)
    drawn = _ops.sampler_step(sampler, _tensor(logits), rows, bits, logprobs, top, check)
    return _output(drawn, _there(logprobs, top))


def handle(sampler) -> Tensor:
    """int64 [1] that stands for a living Sampler in a graph. As a tensor, so that one graph serves all samplers."""
    number = next(_handles)
    _samplers[number] = sampler
    with torch.inference_mode(False):  # nothing may write to an inference tensor elsewhere
        return torch.tensor([number], dtype=torch.int64, device="cpu")


def _tensor(logits) -> Tensor:
    if not isinstance(logits, Tensor):
        inputs.check_logits(logits)  # raises
    return logits.detach()  # no gradient goes through a draw


def _top(logprobs, count) -> int:
    if logprobs in KINDS and isinstance(count, int) and type(count) is not bool and count >= 0:
        return count  # maybe a symbol
    return asked.check(logprobs, count)


def _text(params, logits) -> str:
    """A line of JSON for all rows, or one for each row, each with its end."""
    if isinstance(params, SamplingParams):
        return params._text
    if not isinstance(params, (list, tuple)) or not all(isinstance(one, SamplingParams) for one in params):
        inputs.check_logits(logits)
        params = inputs.check_params(params, *logits.shape)
    return "".join([one._text + "\n" for one in params])


@functools.lru_cache(1024)
def _params(text: str) -> SamplingParams | list[SamplingParams]:
    if text and not text.endswith("\n"):
        return from_text(text)
    return [_params(line) for line in text.splitlines()]


@constant
def _next_call() -> int:
    return next(_calls)


def _history(history, logits) -> tuple[Tensor | None, list[Tensor] | None]:
    if history is None or isinstance(history, Tensor):
        return history, None
    if isinstance(history, (str, bytes)) or not isinstance(history, Sequence):
        inputs.check_history(history, len(logits), logits.device)  # raises
    return None, [row if isinstance(row, Tensor) else torch.as_tensor(row, device=logits.device) for row in history]


def _integers(values, name: str, logits) -> Tensor | None:
    if values is None or isinstance(values, Tensor):
        return values
    if isinstance(values, (str, bytes)) or not hasattr(values, "__len__"):
        inputs.check_row_integers(values, name, len(logits))  # raises
    if isinstance(values, np.ndarray):
        return torch.from_numpy(values)
    # No type is given, so that numbers which are no integers stay what they are, and the operator can say so.
    if name == "uniforms":
        values = [value - 2**64 if 2**63 <= value < 2**64 else value for value in values]
    return torch.tensor(values, device="cpu") if values else torch.zeros(0, dtype=torch.int64, device="cpu")


class _There(NamedTuple):
    """Which results of an operator there are."""

    chosen: bool
    both: bool
    raw: bool
    width: int  # maybe a symbol
    loops: bool


def _there(logprobs, top, text: str = "") -> _There:
    if _rows_ask(text):
        return _there_by_rows(logprobs, int(top), text)
    kind = KINDS[logprobs]
    return _There(kind != 0, kind == RAW | PROCESSED, kind & RAW != 0 or (kind == 0 and top != 0), top, not text)


@constant
def _rows_ask(text: str) -> bool:
    return "logprobs" in text or "repetition_detection" in text


@constant
def _there_by_rows(logprobs, top: int, text: str) -> _There:
    rows = _params(text)
    rows = [rows] if isinstance(rows, SamplingParams) else rows
    wanted, watched = asked.wanted(logprobs, top, rows), any(one.watched for one in rows)
    asks = (wanted.chosen, wanted.both, wanted.raw, wanted.width) if wanted else (False, False, False, 0)
    return _There(*asks, watched)


def _output(drawn, there: _There) -> SampleOutput:
    token_ids, logprobs, top_ids, top_logprobs, kept, status, raw_logprobs, ranks, loop_period = drawn
    if there.width == 0:
        top_ids = top_logprobs = None
    return SampleOutput(
        token_ids,
        logprobs if there.chosen else None,
        top_ids,
        top_logprobs,
        kept,
        status,
        raw_logprobs if there.both else None,
        ranks if there.raw else None,
        loop_period if there.loops else None,
    )


def _tensors(output: SampleOutput, shared: bool) -> tuple[Tensor, ...]:
    """The results of an operator, each with a storage of its own. shared: `output` is the sampler's."""
    tensors = []
    for tensor, dtype in zip(output, _DTYPES):
        if tensor is None:
            tensor = output.token_ids.new_empty(0, dtype=dtype)
        elif shared or tensor.untyped_storage().nbytes() != tensor.nbytes:
            tensor = tensor.clone()
        tensors.append(tensor)
    return tuple(tensors)


def _sample_step(logits, params, history, histories, prompts, places, bits, logprobs, top, backend, check, call):
    rows = history if histories is None else histories
    output = eager.sample(logits, _params(params), rows, prompts, places, bits, logprobs, top, backend, check)
    return _tensors(output, shared=False)


def _process_logits(logits, params, history, histories, prompts, backend):
    rows = history if histories is None else histories
    return eager.process_logits(logits, _params(params), rows, prompts, backend, None)


def _sampler_step(sampler, logits, slots, bits, logprobs, top, check):
    found = _samplers.get(int(sampler))
    if found is None:
        raise RuntimeError(
            f"sampler: got handle {int(sampler)}; accepted: that of a Sampler which lives in this process"
        )
    output = found._step(logits, slots, bits, logprobs, top, check, of_call=True)
    if output.loop_period is None:
        output = output._replace(loop_period=torch.zeros_like(output.status))
    return _tensors(output, shared=found.reuse_outputs)


def _keep_for_backward(ctx, inputs, output) -> None:
    logits, text, history, histories, _, _ = inputs
    ctx.text, ctx.form = text, "padded" if history is not None else "none" if histories is None else "rows"
    ctx.save_for_backward(logits, output, *{"padded": [history], "none": []}.get(ctx.form, histories))


def _process_logits_backward(ctx, grad):
    logits, scores, *kept = ctx.saved_tensors
    history, histories = {"none": (None, None), "rows": (None, kept)}.get(ctx.form) or (kept[0], None)
    rows = [None] * len(kept) if ctx.form == "rows" else None
    derivative = _ops.process_logits_backward(grad, logits, scores, ctx.text, history, histories)
    return derivative, None, None, rows, None, None


def _derivative(grad, logits, scores, text, history, histories):
    params = inputs.check_params(_params(text), *logits.shape)
    known = inputs.check_history(history if histories is None else histories, len(logits), logits.device)
    return gradient.of_scores(grad, logits, scores, params, known)


def _results(logits, there: _There) -> tuple[Tensor, ...]:
    """What an operator returns, but for the values."""
    rows = (logits.shape[0],)
    chosen, both, raw = ((rows if one else (0,)) for one in there[:3])
    lists = (*rows, there.width) if there.width != 0 else (0,)
    shapes = (rows, chosen, lists, lists, rows, rows, both, raw, rows if there.loops else (0,))
    return tuple(logits.new_empty(shape, dtype=dtype) for shape, dtype in zip(shapes, _DTYPES))


def _register(name: str, run, fake) -> None:
    _library.impl(name, run, "CompositeExplicitAutograd")
    torch.library.register_fake(f"pyllmdecode::{name}", fake, lib=_library)


_register("sample_step", _sample_step, lambda logits, text, *others: _results(logits, _there(*others[5:7], text)))
_register("process_logits", _process_logits, lambda logits, *_: logits.new_empty(logits.shape, dtype=torch.float32))
_register("process_logits_backward", _derivative, lambda _, logits, *__: torch.empty_like(logits))
_register("sampler_step", _sampler_step, lambda _, logits, *others: _results(logits, _there(*others[2:4])))
torch.library.register_autograd(
    "pyllmdecode::process_logits", _process_logits_backward, setup_context=_keep_for_backward, lib=_library
)

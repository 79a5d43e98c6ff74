"""`sample` and `process_logits` themselves: `api` calls them directly, and `ops` where torch compiles."""

import torch
from torch import Tensor
from torch.autograd.graph import increment_version

from . import inputs, reference
from . import logprobs as asked
from .backends import cpu, gpu, loops
from .backends.choice import ON_GPUS, choose, module
from .backends.not_offered import refuse
from .output import SampleOutput, checked


def sample(
    logits, params, history, prompt_lengths, positions, uniforms, logprobs, top_logprobs, backend, check
) -> SampleOutput:
    """Arguments as of `api.sample`."""
    inputs.check_logits(logits)
    batch, vocab = logits.shape
    params = inputs.check_params(params, batch, vocab)
    known = inputs.check_history(history, batch, logits.device)
    prompts = inputs.check_prompt_lengths(prompt_lengths, known, batch)
    places = inputs.check_row_integers(positions, "positions", batch)
    bits = inputs.check_row_integers(uniforms, "uniforms", batch, high=2**64 - 1)
    wanted = asked.wanted(logprobs, asked.check(logprobs, top_logprobs), params)
    chosen = choose(backend, logits.device)
    refuse(params, chosen)
    if chosen != "cpu":  # which looks for itself
        inputs.check_memory(logits, "logits")
        inputs.check_memory(known.ids, "history")
    seeds = inputs.draw_seeds(params)
    given = logits, params, seeds, known, prompts, places, bits, wanted
    if chosen == "cpu":
        output = loops.watch(cpu.sample_step(*given), params, known, prompts, vocab)
    elif chosen in ON_GPUS:
        output = loops.watch(gpu.sample_step(module(chosen).Step, *given), params, known, prompts, vocab)
    else:
        rows, lengths = inputs.history_rows(known, batch)
        places = lengths if places is None else places.tolist()
        prompts = lengths if prompts is None else prompts.tolist()
        bits = None if bits is None else bits.tolist()
        output = reference.sample_step(logits, params, rows, prompts, places, seeds, bits, wanted)
    return checked(output) if check else output


def process_logits(logits, params, history, prompt_lengths, backend, out) -> Tensor:
    """Arguments as of `api.process_logits`."""
    inputs.check_logits(logits)
    batch, vocab = logits.shape
    params = inputs.check_params(params, batch, vocab)
    known = inputs.check_history(history, batch, logits.device)
    prompts = inputs.check_prompt_lengths(prompt_lengths, known, batch)
    if out is not None:
        _check_out(out, logits)
    chosen = choose(backend, logits.device)
    refuse(params, chosen)
    inputs.check_memory(logits, "logits")
    inputs.check_memory(known.ids, "history")
    if out is not None:
        inputs.check_memory(out, "out")
        _check_apart(out, known.ids, "history")
        increment_version(out)  # so that autograd knows that what it may have kept is no longer there
    if chosen != "reference":
        out = torch.empty(logits.shape, dtype=torch.float32, device=logits.device) if out is None else out
        if chosen == "cpu":
            cpu.process_logits(logits, params, known, prompts, out)
        else:
            gpu.process_logits(module(chosen).Step, logits, params, known, prompts, out)
        return out
    rows, lengths = inputs.history_rows(known, batch)
    scores = reference.process_logits(logits, params, rows, lengths if prompts is None else prompts.tolist())
    return scores if out is None else out.copy_(scores)


def _check_out(out: Tensor, logits: Tensor) -> None:
    check_out_form(out, logits)
    same = out.data_ptr() == logits.data_ptr() and out.stride(0) == logits.stride(0) and out.dtype == logits.dtype
    if not same:
        _check_apart(out, logits, "logits")


def _check_apart(out: Tensor, other: Tensor, name: str) -> None:
    if out.device == other.device and _overlap(out, other):
        accepted = "the logits themselves, or memory of its own" if name == "logits" else "memory of its own"
        raise ValueError(f"out: got memory that overlaps that of the {name}; accepted: {accepted}")


def check_out_form(out: Tensor, logits: Tensor) -> None:
    """All of the check that needs no memory, which there is none of while torch compiles."""
    inputs.check_logits(out, "out")
    batch, vocab = logits.shape
    if out.dtype != torch.float32:
        raise TypeError(f"out: got dtype {out.dtype}; accepted: torch.float32")
    if out.shape != logits.shape or out.device != logits.device:
        raise ValueError(
            f"out: got shape {list(out.shape)} on {str(out.device)!r}; "
            f"accepted: {list(logits.shape)} on {str(logits.device)!r}"
        )
    if batch > 1 and out.stride(0) < vocab:
        raise ValueError(f"out: got row stride {out.stride(0)}; accepted: at least {vocab} (rows must not overlap)")
    if out.requires_grad:
        raise ValueError("out: got a tensor that requires grad; accepted: one that does not (call .detach() first)")


def _overlap(a: Tensor, b: Tensor) -> bool:
    def span(t):
        begin = t.data_ptr()
        last = sum((n - 1) * step for n, step in zip(t.shape, t.stride()))
        return begin, begin + (last + 1) * t.element_size()

    if not a.numel() or not b.numel():
        return False
    (a0, a1), (b0, b1) = span(a), span(b)
    return a0 < b1 and b0 < a1

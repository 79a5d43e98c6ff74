"""Rows for the tests of the reference, and what becomes of them."""

import torch

from pyllmdecode import reference
from pyllmdecode.logprobs import wanted
from pyllmdecode.params import SamplingParams
from pyllmdecode.reference import edit_row, process_logits

EMPTY = torch.zeros(0, dtype=torch.int64)


def floats(*values):
    return torch.tensor(values, dtype=torch.float32)


def ids(*values):
    return torch.tensor(values, dtype=torch.int64)


def normal(*shape, seed=0, spread=4.0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed)) * spread


def tokens(*shape, vocab, seed=0):
    return torch.randint(0, vocab, shape, generator=torch.Generator().manual_seed(seed))


def edited(x, history=EMPTY, prompt_length=0, **fields):
    return edit_row(x, SamplingParams(**fields), history, prompt_length).x


def processed(x, history=None, **fields):
    """process_logits of a batch whose rows share their parameters; all of the history is the prompt."""
    history = [EMPTY] * len(x) if history is None else list(history)
    return process_logits(x, [SamplingParams(**fields)] * len(x), history, [len(row) for row in history])


def sample_step(x, params, *others, logprobs=None, top_logprobs=0, **more):
    """The reference's, of arguments like those of a call."""
    return reference.sample_step(x, params, *others, wanted=wanted(logprobs, top_logprobs, params), **more)


def one_row(x, history=EMPTY, prompt_length=0, position=0, **options):
    names = ("uniforms", "logprobs", "top_logprobs")
    step = {name: options.pop(name) for name in names if name in options}
    seed = options.pop("seed", 0)
    return sample_step(x[None], [SamplingParams(**options)], [history], [prompt_length], [position], [seed], **step)

"""Rows of which very many tokens are kept, tied or edited, and large k: the CPU reads those again where they stand."""

import functools

import pytest
import torch
from cases import INF, NAN, assert_same, draws, generator, normal

import pyllmdecode as pld
from pyllmdecode import SamplingParams

V = 20000
ROWS = {
    "flat": normal(1, V, spread=0.1)[0],
    "normal": normal(1, V, seed=1, spread=3.0)[0],
    "skewed": normal(1, V, seed=2, spread=2.0)[0],
    "rounded": torch.round(normal(1, V, seed=3, spread=3.0)[0]),
    "equal": torch.full((V,), -2.5),
    "two values": (normal(1, V, seed=4)[0] > 0).float(),
    "tied at the top": torch.where(
        normal(1, V, seed=5)[0] > 1, 4.0, normal(1, V, seed=6, spread=1.0)[0].clamp(max=3.9)
    ),
    "half banned": torch.where(normal(1, V, seed=7)[0] > 0, normal(1, V, seed=8)[0], -INF),
    "rising": torch.linspace(-30, 30, V),
    "lowest": torch.where(normal(1, V, seed=9)[0] > 3, -3e38, normal(1, V, seed=10)[0]),
    "NaN and infinity": torch.where(torch.arange(V) % 977 == 5, NAN, normal(1, V, seed=11)[0]).index_fill(
        0, torch.tensor([3]), INF
    ),
}
FILTERS = (
    {},
    {"top_p": 0.95},
    {"top_p": 0.3},
    {"top_p": 0.9999},
    {"min_p": 1e-4},
    {"min_p": 0.5},
    {"top_k": 50},
    {"top_k": 5000, "top_p": 0.9},
    {"top_k": V - 1, "min_p": 0.01},
    {"top_k": 3000, "top_p": 0.5, "min_p": 0.2},
)


@functools.cache
def case(edits, dtype, index):
    """logits, parameters, history, options, and what the reference answers."""
    logits = torch.stack(list(ROWS.values())).to(dtype)
    ids = torch.randperm(V, generator=generator(edits))[:edits].tolist()
    penalties = {"repetition_penalty": 1.3, "frequency_penalty": 0.2, "no_repeat_ngram_size": 2, "bad_words_ids": [[7]]}
    temperature = (0.7, 1.0, 3.0)[index % 3]
    params = SamplingParams(temperature=temperature, **FILTERS[index], **(penalties if edits else {}))
    history = [[*ids, *ids[: 1 + edits // 9]]] * len(logits)
    options = {"uniforms": draws(len(logits), seed=index), "logprobs": "processed"}
    prompts = [edits // 2] * len(logits)
    answer = pld.sample(logits, params, history, backend="reference", prompt_lengths=prompts, **options)
    return logits, params, history, prompts, options, answer


@pytest.mark.parametrize("dtype", [torch.float32, pytest.param(torch.bfloat16, marks=pytest.mark.thorough)])
@pytest.mark.parametrize("edits", [0, 300, 700, 15000])
def test_as_the_reference(native, edits, dtype):
    """Few enough edits to be kept beside the row, and so many that it is written out."""
    for index in range(len(FILTERS)):
        logits, params, history, prompts, options, expected = case(edits, dtype, index)
        assert_same(native.sample(logits, params, history, prompt_lengths=prompts, **options), expected)
        sampler = native.sampler(V, len(logits), 40000)
        for tokens, prompt in zip(history, prompts, strict=True):
            sampler.append(sampler.add(params, tokens[:prompt]), tokens[prompt:])
        assert_same(sampler.step(logits, **options), expected)

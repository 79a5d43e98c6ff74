"""SamplingParams.like: the parameters of other projects, with their names, defaults and orders."""

import math
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from cases import INF, normal

import pyllmdecode as pld
from pyllmdecode import SamplingParams
from pyllmdecode.names import from_generation_config

sys.path.append(str(Path(__file__).parent / "reference"))
from llama_chains import CASES, TRACE, rows

like = SamplingParams.like


def test_llama_cpp_in_its_own_words():
    """Its answers in the trace, asked for as its server would be."""
    called_there = {"temperature": "temp", "typical_p": "typ_p", "min_tokens_to_keep": "min_keep"}
    with np.load(TRACE) as trace:
        answers = torch.from_numpy(trace["answers"])
    for case, expected in zip(CASES, answers, strict=True):
        own = {called_there.get(name, name): value for name, value in case.items()}
        params = like("llama.cpp", **{"temp": 1.0, "top_k": 0, "top_p": 1.0, "min_p": 0.0} | own, seed=3)
        got = pld.process_logits(torch.from_numpy(rows()), params)
        assert torch.equal(got > -INF, expected > -INF)


def test_defaults():
    expected = {
        "temperature": 0.8,
        "top_k": 40,
        "top_p": 0.95,
        "min_p": 0.05,
        "penalty_last_n": 64,
        "count_scope": "all",
    }
    assert like("llama.cpp") == SamplingParams(**expected, temperature_last=True)
    assert like("vllm") == SamplingParams(ngram_scope="generated", bad_words_scope="generated")
    assert like("sglang", top_k=-1) == SamplingParams(top_k=-1, repetition_scope="generated")
    assert like("transformers") == SamplingParams(temperature=0.0)
    given_ = {"do_sample": True, "typical_p": 0.9, "top_h": 0.5}
    assert like("transformers", **given_) == SamplingParams(typical_p=0.9, top_h=0.5, top_k=50)
    assert like("transformers", **given_) == SamplingParams(**from_generation_config(given_, given_ | {"top_k": 0}))


def test_names_of_theirs():
    got = like(
        "llama.cpp", repeat_penalty=1.1, repeat_last_n=-1, logit_bias=[[5, False], [7, 1.5]], seed=-1, n_predict=9
    )
    assert (got.repetition_penalty, got.penalty_last_n, got.seed) == (1.1, -1, None)
    assert got.logit_bias == ((5, -math.inf), (7, 1.5)) and like("llama.cpp", temp=-1).temperature == 0
    assert like("vllm", min_tokens=3, stop_token_ids=[2], min_k=True, min_k_tau=4.0).min_k == 4.0
    assert like("vllm", min_k=False).min_k is None
    assert like("llama.cpp", dry_multiplier=0.8, dry_sequence_breakers=[]).dry_multiplier == 0.8
    assert like("sglang", repetition_penalty=1.2, max_new_tokens=5).repetition_scope == "generated"


def test_the_same_name_means_what_it_means_there():
    """Penalties of one request, by three projects."""
    x, history = normal(1, 30), [[1, 2, 3, 4]]
    options = {"prompt_lengths": [2], "backend": "cpu"}

    def changed(params):
        return (pld.process_logits(x, params, history, **options) != x)[0].nonzero()[:, 0].tolist()

    off = {"top_k": 0, "top_p": 1.0, "min_p": 0.0}
    assert changed(like("vllm", repetition_penalty=1.3)) == [1, 2, 3, 4]
    assert changed(like("sglang", repetition_penalty=1.3)) == [3, 4]
    assert changed(like("vllm", presence_penalty=1.0)) == [3, 4]
    assert changed(like("llama.cpp", temp=1.0, presence_penalty=1.0, **off)) == [1, 2, 3, 4]
    assert changed(like("llama.cpp", temp=1.0, presence_penalty=1.0, repeat_last_n=1, **off)) == [4]


@pytest.mark.parametrize(
    "project, given, kind, words",
    [
        ("llama.cpp", {"typ_p": 0.9}, ValueError, ("typical_p, top_p", "order")),
        ("vllm", {"min_p": 0.1, "top_p": 0.9}, ValueError, ("min_p, top_p", "order")),
        (
            "transformers",
            {"do_sample": True, "typical_p": 0.9, "eta_cutoff": 0.1},
            ValueError,
            ("typical_p, eta_cutoff",),
        ),
        ("llama.cpp", {"samplers": ["top_k"]}, ValueError, ("samplers",)),
        ("vllm", {"guided_json": {}}, ValueError, ("guided_json",)),
        ("vllm", {"min_k": True}, ValueError, ("min_k_tau",)),
        ("llama.cpp", {"dry_multiplier": 0.8}, ValueError, ("dry_sequence_breakers", "ids")),
        ("sglang", {"tempo": 1.0}, TypeError, ("tempo", "temp")),
        ("ollama", {}, ValueError, ("'ollama'", "'llama.cpp'")),
        (3, {}, TypeError, ("project",)),
    ],
)
def test_what_has_no_equivalent_says_so(project, given, kind, words):
    with pytest.raises(kind) as error:
        like(project, **given)
    assert all(word in str(error.value) for word in words)

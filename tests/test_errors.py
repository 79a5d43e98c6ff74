"""Section 7 of docs/contract.md: what is wrong raises before anything is computed, and the message helps."""

import re

import numpy as np
import pytest
import torch
from cases import INF, NAN, normal

import pyllmdecode as pld
from pyllmdecode import BAD_HISTORY_ID, EMPTY_ROW, NAN_LOGITS, SamplingParams

V = 8
P = SamplingParams
INTS = "accepted: 2 integers, one per row"
ONE_ROW = "accepted: a list or a 1-D integer tensor of token ids"


def ids(*shape, dtype=torch.int64, device="cpu"):
    return torch.zeros(*shape, dtype=dtype, device=device)


# What is given, the exception, and what its message says.
LOGITS = [
    ([[0.0] * V] * 2, TypeError, "logits: got list; accepted: a torch.Tensor [B, V]"),
    (np.zeros((2, V), np.float32), TypeError, "logits: got ndarray; accepted: a torch.Tensor [B, V]"),
    (torch.zeros(2, V, dtype=torch.float64), TypeError, "logits: got dtype torch.float64; accepted: torch.float32, "),
    (ids(2, V), TypeError, "logits: got dtype torch.int64; accepted: torch.float32, torch.float16, torch.bfloat16"),
    (torch.zeros(V), ValueError, f"logits: got shape [{V}]; accepted: [B, V]"),
    (torch.zeros(1, 2, V), ValueError, f"logits: got shape [1, 2, {V}]; accepted: [B, V]"),
    (torch.zeros(2, 0), ValueError, "logits: got a vocabulary of 0; accepted: 1 to 4194304"),
    (torch.zeros(1, 1).expand(2, 2**22 + 1), ValueError, "logits: got a vocabulary of 4194305; accepted: 1 to 4194304"),
    (torch.zeros(V, 2).t(), ValueError, "logits: got stride 2 between a row's tokens; accepted: 1"),
    (torch.zeros(2, 2 * V)[:, ::2], ValueError, "logits: got stride 2 between a row's tokens; accepted: 1"),
    (torch.zeros(2, 1).expand(2, V), ValueError, "logits: got stride 0 between a row's tokens; accepted: 1"),
]
PARAMS = [
    (None, TypeError, "params: got NoneType; accepted: SamplingParams, or a sequence of 2 of them (one per row)"),
    ({}, TypeError, "params: got dict; accepted: SamplingParams, or a sequence of 2"),
    ("ab", TypeError, "params: got str; accepted: SamplingParams, or a sequence of 2"),
    ([P()], ValueError, "params: got 1 of them; accepted: SamplingParams, or a sequence of 2"),
    ([P()] * 3, ValueError, "params: got 3 of them; accepted: SamplingParams, or a sequence of 2"),
    ([P(), {"top_k": 1}], TypeError, "row 1: params: got dict; accepted: SamplingParams"),
    (P(logit_bias={V: 1.0}), ValueError, f"logit_bias: got token id {V}; accepted: ids in [0, {V})"),
    ([P(), P(allowed_token_ids=[0, V])], ValueError, f"row 1: allowed_token_ids: got token id {V}; accepted: ids in"),
    ([P(bad_words_ids=[[0], [1, 99]]), P()], ValueError, "row 0: bad_words_ids: got token id 99; accepted: ids in"),
    ([P(), P(eos_token_ids=2**40)], ValueError, f"row 1: eos_token_ids: got token id {2**40}; accepted: ids in"),
]
HISTORY = [
    ("ab", TypeError, "history: got str; accepted: a [B, L] integer tensor, or a sequence of 2 lists"),
    ({0: [], 1: []}, TypeError, "history: got dict; accepted: a [B, L] integer tensor, or a sequence of 2 lists"),
    (5, TypeError, "history: got int; accepted: a [B, L] integer tensor, or a sequence of 2 lists"),
    ([[1]], ValueError, "history: got 1 rows; accepted: a [B, L] integer tensor, or a sequence of 2 lists"),
    ([[1], [2, 1.5]], TypeError, f"row 1: history[1]: got 1.5 (float); {ONE_ROW}"),
    ([[True], []], TypeError, f"row 0: history[0]: got True (bool); {ONE_ROW}"),
    ([[], ["7"]], TypeError, f"row 1: history[0]: got '7' (str); {ONE_ROW}"),
    ([[], 7], TypeError, f"row 1: history: got int; {ONE_ROW}"),
    ([[], torch.zeros(3)], TypeError, f"row 1: history: got dtype torch.float32; {ONE_ROW}"),
    ([ids(1, 2), []], ValueError, f"row 0: history: got shape [1, 2]; {ONE_ROW}"),
    ([[], np.zeros(2)], TypeError, f"row 1: history: got a 1-D array of float64; {ONE_ROW}"),
    ([[], ids(2, device="meta")], ValueError, "row 1: history: got device 'meta'; accepted: 'cpu', the logits' device"),
    (torch.zeros(2, 3), TypeError, "history: got dtype torch.float32; accepted: a [2, L] integer tensor, right-padded"),
    (ids(2, 3, dtype=torch.bool), TypeError, "history: got dtype torch.bool; accepted: a [2, L] integer tensor"),
    (ids(6), ValueError, "history: got shape [6]; accepted: a [2, L] integer tensor, right-padded with -1"),
    (ids(3, 2), ValueError, "history: got shape [3, 2]; accepted: a [2, L] integer tensor, right-padded with -1"),
    (ids(2, 3, device="meta"), ValueError, "history: got device 'meta'; accepted: 'cpu', the logits' device"),
]
PROMPTS = [
    ([0, 3], ValueError, "row 1: prompt_lengths: got 3; accepted: 0 to 2, the length of its history"),
    ([-1, 0], ValueError, "row 0: prompt_lengths: got -1; accepted: at least 0"),
    ([1], ValueError, f"prompt_lengths: got 1 values; {INTS}"),
    ([1, 0.0], TypeError, f"prompt_lengths[1]: got 0.0 (float); {INTS}"),
    (torch.tensor([0, 3]), ValueError, "row 1: prompt_lengths: got 3; accepted: 0 to 2, the length of its history"),
    (torch.tensor([0.0, 1.0]), TypeError, f"prompt_lengths: got dtype torch.float32; {INTS}"),
]
ROWS = [
    (5, TypeError, f"got int; {INTS}"),
    ("ab", TypeError, f"got str; {INTS}"),
    ([1], ValueError, f"got 1 values; {INTS}"),
    ([1, 2, 3], ValueError, f"got 3 values; {INTS}"),
    ([1, None], TypeError, f"[1]: got None (NoneType); {INTS}"),
    ([True, 1], TypeError, f"[0]: got True (bool); {INTS}"),
    ([1, 2**64], ValueError, f"[1]: got {2**64}; accepted: "),
    ([1, -(2**63) - 1], ValueError, f"[1]: got {-(2**63) - 1}; accepted: "),
    ([[1, 2], [3]], (TypeError, ValueError), INTS),
    (torch.zeros(2), TypeError, f"got dtype torch.float32; {INTS}"),
    (ids(2, 1), ValueError, f"got shape [2, 1]; {INTS}"),
    (ids(3), ValueError, f"got shape [3]; {INTS}"),
]
SAMPLE = [
    ({"logprobs": "all"}, ValueError, "logprobs: got 'all'; accepted: None, 'raw', 'processed', 'both'"),
    ({"logprobs": True}, ValueError, "logprobs: got True; accepted: None, 'raw', 'processed', 'both'"),
    ({"top_logprobs": -1}, ValueError, "top_logprobs: got -1; accepted: an integer >= 0"),
    ({"top_logprobs": 2.0}, TypeError, "top_logprobs: got 2.0 (float); accepted: an integer >= 0"),
    ({"top_logprobs": None}, TypeError, "top_logprobs: got None (NoneType); accepted: an integer >= 0"),
    ({"top_logprobs": True}, TypeError, "top_logprobs: got True (bool); accepted: an integer >= 0"),
    ({"positions": [2**63, 0]}, ValueError, f"positions[0]: got {2**63}; accepted: "),
]
BACKEND = [
    ("gpu", ValueError, "backend: got 'gpu'; accepted: 'auto', 'reference', 'cpu'"),
    (3, TypeError, "backend: got 3 (int); accepted: 'auto', 'reference', 'cpu'"),
]
CALLS = [({"logits": value}, *rest) for value, *rest in LOGITS]
CALLS += [({"params": value}, *rest) for value, *rest in PARAMS]
CALLS += [({"history": value}, *rest) for value, *rest in HISTORY]
CALLS += [({"history": [[1], [1, 2]], "prompt_lengths": value}, *rest) for value, *rest in PROMPTS]
SAMPLE += [({name: value}, *rest) for name in ("positions", "uniforms") for value, *rest in ROWS]


def refused(call, error, message, state):
    """`call` raises with the message, and neither memory nor torch's generator has changed by then."""
    before, generator = [t.clone() for t in state], torch.get_rng_state()
    with pytest.raises(error, match=re.escape(message)):
        call()
    assert all(torch.equal(one, other) for one, other in zip(state, before))
    assert torch.equal(torch.get_rng_state(), generator)


def name_of(case):
    (field, value), *_ = list(case[0].items())[::-1]
    return re.sub(r"\W+", " ", f"{field} {value}")[:40]


@pytest.mark.parametrize("case", CALLS + SAMPLE, ids=name_of)
def test_sample(backend, case):
    given, error, message = case
    logits = normal(2, V).to(backend.device)
    arguments = {"logits": logits, "params": P(), "backend": backend.name, **given}
    refused(lambda: pld.sample(**arguments), error, message.replace("'cpu', the", f"{backend.device!r}, the"), [logits])


@pytest.mark.parametrize("case", CALLS, ids=name_of)
def test_process_logits(backend, case):
    given, error, message = case
    logits, out = normal(2, V).to(backend.device), torch.full((2, V), 3.5, device=backend.device)
    arguments = {"logits": logits, "params": P(), "backend": backend.name, "out": out, **given}
    message = message.replace("'cpu', the", f"{backend.device!r}, the")
    refused(lambda: pld.process_logits(**arguments), error, message, [logits, out])


@pytest.mark.parametrize(("name", "error", "message"), BACKEND)
def test_backend(name, error, message):
    for call in (pld.sample, pld.process_logits):
        refused(lambda call=call: call(torch.zeros(2, V), P(), backend=name), error, message, [])
    refused(lambda: pld.Sampler(V, 2, 8, backend=name), error, message, [])


def test_backend_that_cannot_run_here(native):
    for name, state in pld.backends().items():
        if not state:
            message = f"backend: '{name}' is not available: {state.reason}"
            refused(lambda name=name: pld.sample(torch.zeros(2, V), P(), backend=name), ValueError, message, [])
    message = "backend: 'cpu' takes tensors on the CPU; got device 'meta'"
    refused(lambda: pld.sample(torch.zeros(2, V, device="meta"), P(), backend="cpu"), ValueError, message, [])
    refused(lambda: pld.Sampler(V, 2, 8, backend="cpu", device="meta"), ValueError, message, [])


OUT = [
    (lambda: [0.0], TypeError, "out: got list; accepted: a torch.Tensor [B, V]"),
    (lambda: torch.zeros(2, V).half(), TypeError, "out: got dtype torch.float16; accepted: torch.float32"),
    (lambda: torch.zeros(2, V).double(), TypeError, "out: got dtype torch.float64; accepted: torch.float32"),
    (lambda: torch.zeros(2, V + 1), ValueError, f"out: got shape [2, {V + 1}]"),
    (lambda: torch.zeros(3, V), ValueError, f"out: got shape [3, {V}]"),
    (lambda: torch.zeros(2 * V), ValueError, f"out: got shape [{2 * V}]; accepted: [B, V]"),
    (lambda: torch.zeros(2, V, device="meta"), ValueError, f"out: got shape [2, {V}] on 'meta'; accepted: [2, {V}] on"),
    (lambda: torch.zeros(V, 2).t(), ValueError, "out: got stride 2 between a row's tokens; accepted: 1"),
    (lambda: torch.zeros(1, V).expand(2, V), ValueError, f"out: got row stride 0; accepted: at least {V}"),
    (lambda: torch.zeros(2 * V).as_strided((2, V), (V - 1, 1)), ValueError, f"out: got row stride {V - 1}; accepted:"),
    (lambda: torch.zeros(2, V, requires_grad=True), ValueError, "out: got a tensor that requires grad"),
]


@pytest.mark.parametrize(("make", "error", "message"), OUT)
def test_out(backend, make, error, message):
    logits, out = normal(2, V).to(backend.device), make()
    if isinstance(out, torch.Tensor) and out.device.type == "cpu" and out.is_contiguous():
        out = out.to(backend.device)
    state = [logits] + [out] * (isinstance(out, torch.Tensor) and out.device.type != "meta")
    refused(lambda: pld.process_logits(logits, P(), backend=backend.name, out=out), error, message, state)


@pytest.mark.parametrize("field", ["vocab_size", "max_batch", "max_length"])
def test_sampler_sizes(backend, field):
    sizes = {"vocab_size": V, "max_batch": 2, "max_length": 8, "backend": backend.name, "device": backend.device}
    table = [(0, ValueError, "0"), (-1, ValueError, "-1"), (2**31, ValueError, str(2**31))]
    table += [(2.0, TypeError, "2.0 (float)"), (True, TypeError, "True (bool)"), (None, TypeError, "None (NoneType)")]
    for value, error, text in table:
        message = f"{field}: got {text}; accepted: an integer from 1 to "
        refused(lambda value=value: pld.Sampler(**{**sizes, field: value}), error, message, [])


SLOT = [
    (7, ValueError, "slot: got 7; accepted: an active slot, one of [0, 1]"),
    (2, ValueError, "slot: got 2; accepted: an active slot, one of [0, 1]"),
    (-1, ValueError, "slot: got -1; accepted: an active slot, one of [0, 1]"),
    (None, TypeError, "slot: got None (NoneType); accepted: an active slot"),
    (True, TypeError, "slot: got True (bool); accepted: an active slot"),
    (1.0, TypeError, "slot: got 1.0 (float); accepted: an active slot"),
]
SLOTS = [([0, slot], error, f"row 1: {message}") for slot, error, message in SLOT]
SLOTS += [([slot, 1], error, f"row 0: {message}") for slot, error, message in SLOT if slot is not True]
SLOTS += [
    ([1, 1], ValueError, "row 1: slot: got 1 a second time; accepted: each slot at most once"),
    (torch.tensor([0, 0]), ValueError, "row 1: slot: got 0 a second time; accepted: each slot at most once"),
    (torch.tensor([0.0, 1.0]), TypeError, "slot"),
    (torch.tensor([[0, 1]]), (TypeError, ValueError), "slot"),
    (5, TypeError, "slots: got "),
    ("ab", TypeError, "slot"),
]
STEP = [
    ({"logits": torch.zeros(1, V)}, ValueError, f"logits: got shape [1, {V}] on 'cpu'; accepted: [2, {V}] (a row per"),
    ({"logits": torch.zeros(2, V + 1)}, ValueError, f"logits: got shape [2, {V + 1}] on 'cpu'; accepted: [2, {V}]"),
    ({"logits": torch.zeros(2, V, device="meta")}, ValueError, f"logits: got shape [2, {V}] on 'meta'; accepted: "),
]
STEP += [({"logits": value}, error, text) for value, error, text in LOGITS if "vocabulary" not in text]
STEP += [({"uniforms": value}, *rest) for value, *rest in ROWS]
STEP += [case for case in SAMPLE if "logprobs" in str(case[0])]
STEP += [({"slots": value}, *rest) for value, *rest in SLOTS]


def two_slots(backend):
    sampler = backend.sampler(V, 3, 6)
    for slot in range(3):
        sampler.add(P(seed=slot), [slot, 5])
    sampler.remove(2)
    return sampler


@pytest.mark.parametrize("case", STEP, ids=name_of)
def test_step(backend, case):
    given, error, message = case
    sampler, logits = two_slots(backend), normal(2, V).to(backend.device)
    with pytest.raises(error, match=re.escape(message)):
        sampler.step(**{"logits": logits, **given})
    assert sampler.slots == (0, 1) and [sampler.history(slot).tolist() for slot in (0, 1)] == [[0, 5], [1, 5]]
    fresh = two_slots(backend)
    assert torch.equal(sampler.step(logits).token_ids, fresh.step(logits).token_ids)


def test_sampler_calls(backend):
    sampler = two_slots(backend)
    for slot, error, message in SLOT:
        for call in (sampler.remove, sampler.history, sampler.fork):
            refused(lambda call=call, slot=slot: call(slot), error, message, [])
    for value, error, message in PARAMS[:3]:
        text = f"{message.split(';')[0]}; accepted: SamplingParams"
        refused(lambda value=value: sampler.add(value, []), error, text, [])
        if value is not None:
            refused(lambda value=value: sampler.fork(0, value), error, text, [])
    bad = P(logit_bias={V: 1.0})
    message = f"logit_bias: got token id {V}; accepted: ids in [0, {V})"
    for call in (lambda: sampler.add(bad, []), lambda: sampler.fork(0, bad)):
        refused(call, ValueError, message, [])
    table = [(5, TypeError, "got int"), ("ab", TypeError, "got str"), (ids(1, 2), ValueError, "got shape [1, 2]")]
    table += [([0, 1.0], TypeError, "[1]: got 1.0 (float)"), (torch.zeros(2), TypeError, "got dtype torch.float32")]
    table += [(ids(7), ValueError, "got 7 tokens; accepted: at most max_length = 6")]
    for prompt, error, text in table:
        name = "prompt_ids" if text.startswith("[") else "prompt_ids: "
        refused(lambda prompt=prompt: sampler.add(P(), prompt), error, f"{name}{text}", [])
    assert sampler.slots == (0, 1) and sampler.add(P(), []) == 2


def test_check_names_the_rows(backend):
    logits = torch.tensor([[0.0, NAN], [0.0, 0.0], [-INF, -INF], [NAN, NAN], [0.0, 0.0]])
    history = [[], [0], [], [7, 1], [-1]]
    flags = {0: NAN_LOGITS, 2: EMPTY_ROW, 3: NAN_LOGITS | EMPTY_ROW | BAD_HISTORY_ID, 4: BAD_HISTORY_ID}
    with pytest.raises(pld.RowError) as info:
        backend.sample(logits, P(seed=1), history, check=True)
    error = info.value
    assert isinstance(error, ValueError) and error.rows == flags
    assert [int(status) for status in error.output.status] == [flags.get(row, 0) for row in range(5)]
    words = {NAN_LOGITS: "NAN_LOGITS", EMPTY_ROW: "EMPTY_ROW", BAD_HISTORY_ID: "BAD_HISTORY_ID"}
    for part, (row, status) in zip(str(error).split("; row "), flags.items(), strict=True):
        assert part.removeprefix("row ").startswith(f"{row}: ")
        assert {flag for flag, word in words.items() if word in part} == {flag for flag in words if status & flag}
    assert backend.sample(logits[1:2], P(seed=1), [[0]], check=True).status.tolist() == [0]
    sampler = backend.sampler(2, 2, 9)
    sampler.add(P(seed=1), [0])
    sampler.add(P(seed=1), [0, 9])
    with pytest.raises(pld.RowError, match=r"^row 1: BAD_HISTORY_ID"):
        sampler.step(backend.move(logits[[1, 1]]), check=True)
    assert sampler.step(backend.move(logits[[1]]), [0], check=True).status.tolist() == [0]


def test_ids_in_a_history_never_raise(backend):
    history = [[-(2**63), 2**63 - 1], [V, -1]]
    assert backend.sample(normal(2, V), P(), history).status.tolist() == [BAD_HISTORY_ID] * 2
    assert backend.sample(normal(2, V), P(), torch.tensor(history)).status.tolist() == [BAD_HISTORY_ID] * 2

"""Control of running requests beyond what any sequence of calls shows (test_sampler_sequences.py): errors, limits,
interrupts, and bytes that were not a snapshot, or no longer are."""

import itertools
import json
import sys

import numpy as np
import pytest
import torch
from cases import assert_equal, assert_same, hard_params, normal
from hypothesis import given, settings
from hypothesis import strategies as st
from strategies import sampling_params

import pyllmdecode as pld
from pyllmdecode import SamplingParams, snapshots

V = 40
FULL = SamplingParams(seed=5, repetition_penalty=1.3, frequency_penalty=0.2, no_repeat_ngram_size=3, logit_bias={3: 1})


def started(backend, params=FULL, length=40):
    sampler = backend.sampler(V, 3, length)
    return sampler, sampler.add(params, [1, 2, 3, V + 1, 2])


def test_rewound_draws_come_again(backend):
    sampler, slot = started(backend)
    rows = [backend.move(normal(1, V, seed=turn)) for turn in range(6)]
    outs = [sampler.step(row, logprobs="processed") for row in rows]
    for n in (1, 6, 3):
        sampler.rewind(slot, n)
        for row, out in zip(rows[-n:], outs[-n:]):
            assert_same(sampler.step(row, logprobs="processed"), out)
    sampler.rewind(slot, 0)
    assert len(sampler.history(slot)) == 11
    sampler.rewind(slot, 10**9)
    assert sampler.history(slot).tolist() == []
    assert sampler.step(rows[0]).status.item() == 0, "the id outside the vocabulary is gone"


def test_parameters_change_and_the_seed_stays(backend):
    sampler, slot = started(backend, SamplingParams(temperature=5.0))
    seed = sampler.params(slot).seed
    sampler.update(slot, SamplingParams(temperature=4.0))
    assert sampler.params(slot) == SamplingParams(temperature=4.0, seed=seed)
    sampler.update(slot, SamplingParams(temperature=0.0, seed=9))
    assert sampler.params(slot).seed == 9
    row = backend.move(normal(1, V))
    assert sampler.step(row).token_ids.item() == row.argmax().item()


def test_more_of_a_prompt_is_not_generated(backend):
    penalised = SamplingParams(temperature=0.0, presence_penalty=100.0)
    row = torch.zeros(1, V)
    row[0, 7] = 1.0
    for as_prompt, token in ((True, 7), (False, 0)):
        sampler = backend.sampler(V, 1, 9)
        slot = sampler.add(penalised, [1])
        sampler.append(slot, torch.tensor([7, 7]).to(sampler.device), as_prompt=as_prompt)
        assert sampler.step(backend.move(row)).token_ids.item() == token


def test_what_has_no_room_is_refused(backend):
    sampler, slot = started(backend, length=8)
    with pytest.raises(ValueError, match="ids: got 4 tokens after 5; accepted: at most max_length = 8 in all"):
        sampler.append(slot, [1, 2, 3, 4])
    row = backend.move(normal(1, V))
    sampler.step(row)
    sampler.step(row)
    before = sampler.history(slot).tolist()
    try:
        sampler.append(slot, [1, 2])
    except ValueError:
        assert sampler._state.least_length(slot) == 7
    else:  # the device alone knew how many there were
        assert sampler.step(row).status.item() & pld.HISTORY_FULL
        sampler.rewind(slot, 1)
    assert sampler.history(slot).tolist() == before
    sampler.append(slot, [1])
    assert sampler.history(slot).tolist() == [*before, 1]
    assert sampler.step(row).token_ids.item() == -1


@pytest.mark.parametrize(
    "call, arguments, error, text",
    [
        ("update", (0, {}), TypeError, "params: got dict"),
        ("update", (0, SamplingParams(logit_bias={V: 1.0})), ValueError, "logit_bias: got token id 40"),
        ("update", (2, SamplingParams()), ValueError, "slot: got 2"),
        ("append", (0, "ab"), TypeError, "ids: got str"),
        ("append", (0, [1.5]), TypeError, "ids"),
        ("append", (0, torch.zeros(2)), TypeError, "ids: got dtype torch.float32"),
        ("append", (True, [1]), TypeError, "slot: got True"),
        ("rewind", (0, -1), ValueError, "n: got -1"),
        ("rewind", (0, 1.5), TypeError, "n: got 1.5"),
        ("rewind", (0, True), TypeError, "n: got True"),
        ("snapshot", (5,), ValueError, "slot: got 5"),
        ("restore", ("abc",), TypeError, "data: got str"),
        ("restore", (None,), TypeError, "data: got NoneType"),
    ],
)
def test_wrong_arguments_change_nothing(backend, call, arguments, error, text):
    sampler, slot = started(backend)
    data = sampler.snapshot(slot)
    with pytest.raises(error, match=text):
        getattr(sampler, call)(*arguments)
    assert sampler.snapshot(slot) == data and sampler.slots == (slot,)


def test_compiled_functions_have_no_control():
    sampler = pld.Sampler(V, 1, 9)
    sampler.add(FULL, [1])
    with pytest.raises(Exception, match="Sampler.rewind in a compiled function: only step can be there"):
        torch.compile(lambda: sampler.rewind(0, 1), fullgraph=True, backend="eager")()


def test_interrupts_leave_before_or_after(backend):
    """An exception at every line: a slot is as it was or as it is to be, in what its next step draws."""
    if backend.interpreted:
        pytest.skip("interrupts what the interpreter runs, which is none of ours")
    logits = backend.move(normal(1, V))
    other = SamplingParams(seed=5, temperature=3.0, bad_words_ids=[[4]], logit_bias={7: 2.0, 8: 1.0})

    def tracer(count):
        lines = itertools.count()

        def trace(frame, event, argument):
            if "pyllmdecode" not in frame.f_code.co_filename:
                return None
            if event == "line" and next(lines) == count:
                sys.settrace(None)
                raise InterruptedError
            return trace

        return trace

    for call, arguments in (("update", (other,)), ("append", ([9, 9],)), ("rewind", (3,))):
        before, after = started(backend)[0], started(backend)[0]
        getattr(after, call)(0, *arguments)
        outcomes = []
        for sampler in (before, after):
            history = sampler.history(0).tolist()
            out = sampler.step(logits, logprobs="processed")
            outcomes.append((history, out.token_ids.item(), out.logprobs.item()))
        for count in itertools.count():
            sampler = started(backend)[0]
            finished = True
            try:
                sys.settrace(tracer(count))
                getattr(sampler, call)(0, *arguments)
            except InterruptedError:
                finished = False
            finally:
                sys.settrace(None)
            history = sampler.history(0).tolist()
            out = sampler.step(logits, logprobs="processed")
            assert (history, out.token_ids.item(), out.logprobs.item()) in outcomes[finished:], (call, count)
            if finished:
                break
        assert count > 5


def snapshot():
    sampler = pld.Sampler(V, 2, 20)
    return sampler.snapshot(sampler.add(FULL, [1, 2, V + 1, 3], prompt_length=2)), sampler


def test_a_snapshot_goes_on_anywhere(backend):
    sampler, slot = started(backend, hard_params(V)["everything"])
    rows = [backend.move(normal(1, V, seed=turn)) for turn in range(4)]
    sampler.step(rows[0])
    data = sampler.snapshot(slot)
    for other in [pld.Sampler(V, 1, 40, backend="reference"), pld.Sampler(V, 9, 30), backend.sampler(V, 1, 40)]:
        assert other.restore(bytearray(data)) == 0 and other.snapshot(0) == data
        assert other.params(0) == sampler.params(slot)
        copy, expected = pld.Sampler(V, 1, 40, backend="reference"), None
        copy.restore(data)
        for row in rows[1:]:
            expected = copy.step(row.cpu())
            assert_equal(other.step(row.to(other.device)).token_ids.cpu(), expected.token_ids, "token_ids")


def test_a_seed_that_was_not_given_is_kept_and_not_given():
    sampler = pld.Sampler(V, 4, 20)
    slot = sampler.restore(sampler.snapshot(sampler.add(SamplingParams(), [1])))
    assert sampler.params(slot) == sampler.params(0)
    assert sampler.params(sampler.fork(slot)).seed != sampler.params(0).seed


@given(params=sampling_params(V), ids=st.lists(st.integers(-2, V + 2), max_size=9))
def test_any_request_comes_back(params, ids):
    sampler = pld.Sampler(V, 2, 20)
    data = sampler.snapshot(sampler.add(params, ids))
    slot = sampler.restore(data)
    assert sampler.params(slot) == params and sampler.snapshot(slot) == data


def test_refused_snapshots_name_what_is_wrong():
    data, sampler = snapshot()
    for other, text in (
        (pld.Sampler(V + 1, 1, 20), "data: got a request of a vocabulary of 40; accepted: 41"),
        (pld.Sampler(V, 1, 3), "data: got 4 tokens; accepted: at most max_length = 3"),
    ):
        with pytest.raises(ValueError, match=text):
            other.restore(data)
        assert other.slots == ()
    size = len(snapshots.MAGIC)
    newer = data[:size] + b"\2" + data[size + 1 :]
    for wrong, text in (
        (b"", "data: got b''; accepted: bytes that Sampler.snapshot made"),
        (b"\x80\x04}.", "accepted: bytes that Sampler.snapshot made"),  # a pickle
        (newer, "data: got version 2 of a snapshot; accepted: version 1"),
        (data[:-1], "are damaged"),
        (data + b"a", "are damaged"),
    ):
        with pytest.raises(ValueError, match=text):
            sampler.restore(wrong)
    sampler.restore(data)
    with pytest.raises(RuntimeError, match="no free slot"):
        sampler.restore(data)


@given(place=st.integers(0, 10_000), bit=st.integers(0, 7))
def test_any_flipped_bit_is_found(place, bit):
    data, sampler = snapshot()
    damaged = bytearray(data)
    damaged[place % len(data)] ^= 1 << bit
    with pytest.raises(ValueError, match="^data: "):
        sampler.restore(damaged)


def forged(tokens=None, **fields):
    """A snapshot with other contents, and the digest that belongs to them."""
    data, sampler = snapshot()
    begin = len(snapshots.MAGIC) + snapshots._SIZES.size
    size = snapshots._SIZES.unpack_from(data, len(snapshots.MAGIC))[1]
    header = {**json.loads(data[begin : begin + size]), **fields}
    header = {name: value for name, value in header.items() if value is not None}
    text = json.dumps(header).encode()
    tokens = data[begin + size : -16] if tokens is None else tokens
    body = snapshots.MAGIC + snapshots._SIZES.pack(snapshots.VERSION, len(text)) + text + tokens
    return body + snapshots._digest(body), sampler


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=5,
)
NAMES = st.sampled_from([*snapshots._FIELDS, "another"])


@settings(max_examples=200)
@given(fields=st.dictionaries(NAMES, JSON, max_size=3), tokens=st.none() | st.binary(max_size=20))
def test_forged_snapshots_are_refused_or_are_requests(fields, tokens):
    """Whoever knows how a snapshot is made can make one; what it makes is a request, or refused by name."""
    data, sampler = forged(tokens, **fields)
    try:
        slot = sampler.restore(data)
    except (TypeError, ValueError) as error:
        assert str(error).startswith(("data: ", "logit_bias", "seed"))
    else:
        assert (sampler.step(normal(1, V), [slot]).token_ids >= 0).all()


def test_forged_parameters_are_checked():
    for text in (
        '{"temperature": -1}',
        '{"nothing": 1}',
        '{"logit_bias": [[1]]}',
        '{"logit_bias": 3}',
        '{"bad_words_ids": [[]]}',
        "[1]",
        "3",
        "null",
        "[" * 10_000,
        '{"logit_bias": [[40, 1.0]]}',
    ):
        data, sampler = forged(params=text)
        with pytest.raises(ValueError, match="data: got parameters that are none|logit_bias: got token id 40"):
            sampler.restore(data)
        assert sampler.slots == (0,)
    data, sampler = forged(np.array([-5, 2**31 - 1, V, 1], "<i4").tobytes())
    assert sampler.history(sampler.restore(data)).tolist() == [-1, -1, -1, 1]
    for seed in (-(2**64), 2**64):
        with pytest.raises(ValueError, match="data: seed: got"):
            sampler.restore(forged(seed=seed)[0])

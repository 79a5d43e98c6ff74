"""Loops that steps see, on every backend, against the definition, and tokens that are forced."""

import dataclasses

import numpy as np
import pytest
import torch
from cases import INF, NAN, assert_equal, assert_same, normal
from hypothesis import given, settings
from hypothesis import strategies as st
from strategies import detections

import pyllmdecode as pld
from pyllmdecode import LOOP, RepetitionDetection, RowError, SamplingParams
from pyllmdecode.backends import loops
from pyllmdecode.reference.loops import find_loop
from pyllmdecode.repetition import detect

V = 8


def write(backend, detections, sequences, max_length, prompts=None):
    """What steps say of these tokens, forced one after the other: loop_period and LOOP, [T, B]."""
    sampler = backend.sampler(V, len(sequences), max_length)
    for row, (detection, ids) in enumerate(zip(detections, sequences)):
        slot = sampler.add(SamplingParams(seed=1, repetition_detection=detection), prompts[row] if prompts else [])
        sampler.force(slot, ids)
    logits = backend.move(normal(len(sequences), V))
    outs = [sampler.step(logits) for _ in range(len(sequences[0]))]
    return np.array([out.loop_period.tolist() for out in outs]), np.array([out.status.tolist() for out in outs])


def test_steps_say_what_the_definition_says(backend):
    """Rows of one batch, each with its own detection; histories end at capacity."""
    rng, count = np.random.default_rng(3), backend.fewer(60, 6)
    for _ in range(backend.fewer(3, 1)):
        given = [some_detection(rng) for _ in range(4)]
        sequences = [rng.integers(0, rng.integers(1, 4), count).tolist() for _ in given]
        prompts = [sequence[-5:] for sequence in sequences]  # they do not count
        periods, status = write(backend, given, sequences, count + 5, prompts)
        for row, (detection, sequence) in enumerate(zip(given, sequences)):
            expected = [find_loop(sequence[:end], detection) for end in range(1, count + 1)]
            assert periods[:, row].tolist() == [period for period, _ in expected]
            assert (status[:, row] & LOOP > 0).tolist() == [loop for _, loop in expected]


def some_detection(rng):
    most, n = int(rng.integers(1, 9)), int(rng.integers(1, 5))
    window = int(rng.choice([0, n, n + 3, n + 20]))
    least = int(rng.integers(1, most + 1))
    return RepetitionDetection(
        most, least, int(rng.integers(2, 5)), int(rng.integers(0, 9)), window, n, rng.uniform(0.1, 1)
    )


@pytest.mark.parametrize("size", [1, 7, 33, 1000, 2000])
def test_blocks_of_any_size(backend, size):
    """Seen with their last token, not before, and not where the first one differs; the history came with `add`."""
    ids = [1 + place * place % 7 % (V - 1) for place in range(size - 1)] + [0]
    detection = RepetitionDetection(2000, min_pattern_size=size, min_count=3)
    params = SamplingParams(seed=1, repetition_detection=detection)
    text = [7, *ids * 3]
    logits = backend.move(normal(1, V))
    for history, forced, period in (
        (text[:-1], text[-1], size),
        (text[:-1], 1 + text[-1], 0),
        (text[:-2], text[-2], 0),
        ([7, (ids[0] + 1) % V, *text[2:-1]], text[-1], 0),
    ):
        sampler = backend.sampler(V, 1, 3 * size + 5)
        sampler.add(params, history, prompt_length=0)
        sampler.force(0, [forced])
        out = sampler.step(logits)
        assert (out.loop_period.item(), out.status.item()) == (period, LOOP if period else 0), history[:5]


@given(
    st.lists(st.integers(-1, 2), max_size=30),
    st.integers(0, 30),
    st.lists(st.integers(0, 2), max_size=12),
    detections(),
)
def test_what_is_kept_can_be_built_at_any_place(ids, prompt, more, detection):
    """The state of a history is that of a shorter one after the tokens between; also where it says the same of both."""
    prompt = min(prompt, len(ids))
    generated = ids[prompt:]

    def built(tokens):
        lengths = torch.tensor([[len(tokens)], [prompt]])
        return loops.build(detection, torch.tensor(tokens + [9], dtype=torch.int64), *lengths)

    if generated:
        period, loop = loops.verdict(detection, built(ids), torch.tensor([len(generated)]))
        assert (period.item(), loop.item()) == find_loop(generated, detection)
        found = detect(generated, detection)
        assert (found.loop_period[-1], found.loop[-1]) == (period.item(), loop.item())
    for token in more:
        generated = [*generated, token]
        period, loop = loops.verdict(detection, built(ids[:prompt] + generated), torch.tensor([len(generated)]))
        assert (period.item(), loop.item()) == find_loop(generated, detection)


def test_calls_without_a_sampler_say_it_too(backend):
    detection = RepetitionDetection(3, min_count=2)
    logits = torch.full((6, V), -9.0)
    logits[:, 2] = 9.0
    logits[4] = -INF
    history = [[2], [5, 2, 5], [1, 2, 2], [2, 2], [2], [-1, 2]]
    params = [SamplingParams(temperature=0, repetition_detection=detection)] * 5 + [SamplingParams(temperature=0)]
    out = backend.sample(logits, params, history, prompt_lengths=[0, 0, 2, 2, 0, 0])
    assert out.loop_period.tolist() == [1, 2, 1, 0, 0, 0]
    assert [status & LOOP for status in out.status.tolist()] == [LOOP, LOOP, LOOP, 0, 0, 0]
    padded = torch.tensor([row + [-1] * (3 - len(row)) for row in history])
    same = backend.sample(logits[:4], params[:4], padded[:4], prompt_lengths=[0, 0, 2, 2])
    assert same.loop_period.tolist() == [1, 2, 1, 0]
    assert backend.sample(logits, params[-1], history).loop_period is None
    assert backend.sample(logits[:4], params[:4], history[:4]).loop_period.tolist() == [0, 0, 0, 0], "all are prompts"


def test_a_loop_is_no_error(backend):
    params = SamplingParams(temperature=0, repetition_detection={"max_pattern_size": 1})
    sampler = backend.sampler(V, 2, 9)
    sampler.add(params, [])
    logits = backend.move(normal(1, V))
    for turn in range(3):
        out = sampler.step(logits, check=True)
        assert out.status.item() == (LOOP if turn else 0) and out.loop_period.item() == (turn > 0)
    sampler.add(SamplingParams(), [])
    both = backend.move(torch.cat([normal(1, V), torch.full((1, V), NAN)]))
    with pytest.raises(RowError, match="row 1: NAN_LOGITS"):
        sampler.step(both, check=True)
    sampler.remove(0)
    assert sampler.step(logits).loop_period is None


def test_detection_changes_with_the_parameters(backend):
    """The tokens that are there count for a detection that comes later; what a slot had before is gone."""
    logits = torch.full((1, V), -9.0)
    logits[:, 2] = 9.0
    plain = SamplingParams(temperature=0)
    watched = dataclasses.replace(plain, repetition_detection=RepetitionDetection(2, min_count=4))
    sampler = backend.sampler(V, 1, 20)
    sampler.add(plain, [2, 2])
    for _ in range(3):
        assert sampler.step(backend.move(logits)).loop_period is None
    sampler.update(0, watched)
    assert sampler.step(backend.move(logits)).loop_period.item() == 1
    sampler.append(0, [3])
    assert sampler.step(backend.move(logits)).loop_period.item() == 0
    sampler.rewind(0, 2)
    assert sampler.step(backend.move(logits)).loop_period.item() == 1
    sampler.append(0, [3, 2, 2, 2], as_prompt=True)
    assert sampler.step(backend.move(logits)).loop_period.item() == 0
    sampler.remove(0)
    sampler.add(watched, [], prompt_length=0)
    assert [sampler.step(backend.move(logits)).loop_period.item() for _ in range(5)] == [0, 0, 0, 1, 1]


def test_forced_tokens_come_one_a_step(backend):
    sampler = backend.sampler(V, 2, 9)
    params = SamplingParams(seed=3, repetition_penalty=1.3, bad_words_ids=[[5]], top_k=3)
    sampler.add(params, [1])
    sampler.add(params, [1])
    sampler.force(1, torch.tensor([5, 0]))
    logits = normal(2, V)
    first = sampler.step(backend.move(logits), logprobs="both", top_logprobs=3)
    raw = logits[1].log_softmax(0)
    assert first.token_ids[1].item() == 5 and first.logprobs[1].item() == -INF, "bad words are never kept"
    assert first.raw_logprobs[1].item() == pytest.approx(raw[5].item(), abs=1e-5)
    assert first.ranks[1].item() == 1 + int((raw > raw[5]).sum())
    assert first.kept[1].item() == 3 and 5 not in first.top_ids[1].tolist() and first.status[1].item() == 0
    assert sampler.step(backend.move(logits)).token_ids[1].item() == 0
    reference = pld.Sampler(V, 1, 9, backend="reference")
    reference.add(params, sampler.history(1).cpu(), prompt_length=1)
    third = sampler.step(backend.move(logits[1:]), slots=[1])
    assert_equal(third.token_ids.cpu(), reference.step(logits[1:]).token_ids, "drawn again, at its position")
    for slot in (0, 1):
        assert sampler.history(slot)[0] == 1


def test_forced_tokens_wait_for_room_and_are_taken_back(backend):
    sampler = backend.sampler(V, 3, 3)
    sampler.add(SamplingParams(seed=3), [1, 2, 2])
    sampler.force(0, [4, 5])
    logits = backend.move(normal(1, V))
    out = sampler.step(logits)
    assert (out.token_ids.item(), out.status.item()) == (-1, pld.HISTORY_FULL)
    data = sampler.snapshot(0)
    copy, back = sampler.fork(0), sampler.restore(data)
    assert sampler.snapshot(back) == data == sampler.snapshot(copy)
    sampler.update(0, SamplingParams(temperature=0))
    sampler.rewind(0, 1)  # forgets them
    assert sampler.step(logits, slots=[0]).token_ids.item() == normal(1, V).argmax().item()
    other = backend.sampler(V, 1, 5)
    other.restore(data)
    other.append(0, [6])
    assert other.step(logits).token_ids.item() == 4
    other.force(0, [])
    other.rewind(0, 0)
    assert other.history(0).tolist() == [1, 2, 2, 6, 4]


def test_forced_rows_that_could_draw_nothing(backend):
    logits = torch.stack([torch.full((V,), -INF), torch.full((V,), NAN), normal(V)])
    sampler = backend.sampler(V, 3, 9)
    for slot in range(3):
        sampler.add(SamplingParams(seed=1, allowed_token_ids=[] if slot == 2 else None), [1])
        sampler.force(slot, [slot])
    reference = pld.Sampler(V, 3, 9, backend="reference")
    for slot in range(3):
        reference.restore(sampler.snapshot(slot))
    got = sampler.step(backend.move(logits), logprobs="both", top_logprobs=2)
    got = got._replace(**{name: t.cpu() for name, t in got._asdict().items() if t is not None})
    expected = reference.step(logits, logprobs="both", top_logprobs=2)
    assert_same(got, expected)
    assert got.token_ids.tolist() == [0, 1, 2]
    assert got.status.tolist() == [pld.EMPTY_ROW, pld.EMPTY_ROW | pld.NAN_LOGITS, pld.EMPTY_ROW]


@pytest.mark.parametrize(
    "ids, error, text",
    [
        ([V], ValueError, r"ids\[0\]: got 8; accepted: a token id in \[0, 8\)"),
        ([0, -1], ValueError, r"ids\[1\]: got -1"),
        ([0.5], TypeError, "ids"),
        ("ab", TypeError, "ids: got str"),
        (3, TypeError, "ids: got int"),
    ],
)
def test_wrong_forced_ids(backend, ids, error, text):
    sampler = backend.sampler(V, 1, 9)
    sampler.add(SamplingParams(seed=1), [1])
    sampler.force(0, [2])
    with pytest.raises(error, match=text):
        sampler.force(0, ids)
    assert sampler.step(backend.move(normal(1, V))).token_ids.item() == 2


@settings(max_examples=30)
@given(detection=detections())
def test_detections_are_parameters(detection):
    params = SamplingParams(repetition_detection=detection, seed=1)
    assert SamplingParams(repetition_detection=dataclasses.asdict(detection), seed=1) == params
    assert hash(params) == hash(dataclasses.replace(params))
    sampler = pld.Sampler(V, 2, 9)
    slot = sampler.restore(sampler.snapshot(sampler.add(params, [1])))
    assert sampler.params(slot) == params


def test_wrong_detections_as_parameters():
    for wrong, error, text in (
        (3, TypeError, "repetition_detection: got 3"),
        ({"max_size": 3}, TypeError, "repetition_detection: got 'max_size'; accepted: max_pattern_size"),
        ({"max_pattern_size": -1}, ValueError, r"repetition_detection.max_pattern_size: got -1"),
    ):
        with pytest.raises(error, match=text):
            SamplingParams(repetition_detection=wrong)


def test_compiled_steps_say_it():
    sampler = pld.Sampler(V, 1, 9)
    sampler.add(SamplingParams(temperature=0, repetition_detection=RepetitionDetection(1)), [])
    step = torch.compile(lambda logits: sampler.step(logits), fullgraph=True, backend="eager")
    logits = normal(1, V)
    assert [step(logits).loop_period.item() for _ in range(3)] == [0, 1, 1]
    params = SamplingParams(temperature=0, repetition_detection=RepetitionDetection(1))

    def call(logits, history):
        return pld.sample(logits, params, history, prompt_lengths=[0])

    out = torch.compile(call, fullgraph=True, backend="eager")(logits, torch.tensor([[logits.argmax().item()]]))
    assert (out.loop_period.item(), out.status.item()) == (1, LOOP)

"""Loops in finished sequences, against the rule as vLLM writes it down and n-grams that are counted one by one."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from strategies import detections

import pyllmdecode as pld
from pyllmdecode import RepetitionDetection
from pyllmdecode.repetition import detect

TOKENS = st.lists(st.integers(-1, 3), max_size=40)


def smallest_block(tokens, detection):
    """The smallest size at which the last `size` tokens are those of each of the `min_count` blocks before the end."""
    for size in range(detection.min_pattern_size, detection.max_pattern_size + 1):
        blocks = [tokens[len(tokens) - size * (k + 1) : len(tokens) - size * k] for k in range(detection.min_count)]
        if size * detection.min_count <= len(tokens) and all(block == blocks[0] for block in blocks):
            if min(blocks[0]) >= 0:
                return size
    return 0


def repeated_in_window(tokens, window, n):
    tokens, seen, count = tokens[-window:], set(), 0
    for gram in (tuple(tokens[i : i + n]) for i in range(len(tokens) - n + 1)):
        count += gram in seen
        seen |= {gram} if min(gram) >= 0 else set()
    return count


def naive(tokens, detection):
    """(loop_period, repeated, loop) after the last token."""
    if not tokens:
        return 0, 0, False
    ready = len(tokens) >= detection.min_tokens
    period = smallest_block(tokens, detection) if ready else 0
    repeated, alarm = 0, False
    if detection.window:
        repeated = repeated_in_window(tokens, detection.window, detection.n)
        share = repeated / (detection.window - detection.n + 1)
        alarm = ready and len(tokens) >= detection.window and share >= detection.threshold
    return period, repeated, bool(period) or alarm


@given(TOKENS, detections())
def test_every_prefix_follows_the_rule(tokens, detection):
    found = detect(tokens, detection)
    expected = [naive(tokens[:end], detection) for end in range(1, len(tokens) + 1)]
    assert list(zip(found.loop_period, found.repeated, found.loop)) == expected
    firsts = [end for end, (_, _, loop) in enumerate(expected, 1) if loop]
    assert found.first == (firsts[0] if firsts else None)


@pytest.mark.parametrize("size", [1, 2, 3, 64, 999, 2000])
@pytest.mark.parametrize("times", [2, 3])
def test_blocks_of_any_size_are_found_when_they_are_complete(size, times):
    rng = np.random.default_rng(size)
    block = rng.permutation(size) + 10
    tokens = np.concatenate([10**6 + np.arange(500), *[block] * times])
    found = detect(tokens, RepetitionDetection(2000, min_count=times))
    assert found.first == len(tokens) and found.loop_period[-1] == size
    assert detect(tokens[:-1], RepetitionDetection(2000, min_count=times)).first is None
    spoilt = tokens.copy()
    spoilt[500] = 5  # the first token of the first block
    assert detect(spoilt, RepetitionDetection(2000, min_count=times)).first is None
    assert detect(tokens, RepetitionDetection(2000, min_count=times, min_pattern_size=size)).first == len(tokens)
    if size > 1:
        assert detect(tokens, RepetitionDetection(size - 1, min_count=times)).first is None


def test_a_long_sequence_takes_a_moment():
    tokens = np.random.default_rng(0).integers(0, 50_000, 131_072)
    found = detect(tokens, RepetitionDetection(2000, min_pattern_size=2, window=4096))
    assert found.first is None and found.repeated.max() == 0
    assert found.loop_period.dtype == np.int32 and len(found.loop) == len(tokens)


@pytest.mark.parametrize("of", [list, tuple, np.array, torch.tensor, lambda ids: torch.tensor(ids, dtype=torch.int16)])
def test_forms_of_sequences(of):
    assert detect(of([7, 1, 2, 1, 2]), RepetitionDetection(4)).loop_period.tolist() == [0, 0, 0, 0, 2]
    assert detect(of([0])[:0], RepetitionDetection(4)).first is None


@pytest.mark.parametrize("wrong", [["a"], "ab", [[1, 2]], [True], 3, [1.5], None])
def test_wrong_sequences(wrong):
    with pytest.raises(TypeError, match="ids"):
        detect(wrong, RepetitionDetection(4))


@pytest.mark.parametrize(
    "wrong, message",
    [
        ({"max_pattern_size": -1}, "max_pattern_size: got -1; accepted: an integer from 0 to 16384"),
        ({"max_pattern_size": 20_000}, "max_pattern_size: got 20000"),
        ({"max_pattern_size": 3, "min_pattern_size": 4}, "min_pattern_size: got 4; accepted: an integer from 1 to 3"),
        ({"max_pattern_size": 3, "min_count": 1}, "min_count: got 1; accepted: an integer from 2"),
        ({"max_pattern_size": 3, "min_tokens": -1}, "min_tokens: got -1"),
        ({"max_pattern_size": 3, "window": 3}, "window: got 3; accepted: 0, or an integer from n = 4"),
        ({"max_pattern_size": 3, "threshold": 0}, "threshold: got 0;"),
        ({"max_pattern_size": 3, "threshold": 1.5}, "threshold: got 1.5;"),
    ],
)
def test_wrong_detections(wrong, message):
    with pytest.raises(ValueError) as error:
        RepetitionDetection(**wrong)
    assert str(error.value).startswith(message)


def test_wrong_types_of_a_detection():
    for wrong in ({"max_pattern_size": 1.5}, {"max_pattern_size": True}, {"max_pattern_size": 3, "threshold": "a"}, {}):
        with pytest.raises(TypeError):
            RepetitionDetection(**wrong)
    with pytest.raises(TypeError, match="detection: got dict"):
        pld.repetition.detect([1], {"max_pattern_size": 3})

"""SamplingParams as objects: subclasses that skip checks, pickles, sequences that make their elements when asked."""

import copy
import pickle
from collections.abc import Sequence
from dataclasses import dataclass

import pytest
import torch
from cases import assert_same, normal
from records import EVERYTHING

import pyllmdecode as pld
from pyllmdecode import SamplingParams
from pyllmdecode.params import check_vocab, from_text


class NoCheck(SamplingParams):
    def __post_init__(self):
        pass


@dataclass(frozen=True, kw_only=True)
class NoCheckEither(SamplingParams):
    label: str = ""

    def __post_init__(self):
        pass


class Own(SamplingParams):
    def __init__(self, **given):
        for name, value in given.items():
            object.__setattr__(self, name, value)


class OwnThenBase(SamplingParams):
    def __init__(self, heat=1.0, **given):
        super().__init__(temperature=heat, **given)


class Grandchild(NoCheckEither):
    def __post_init__(self):
        object.__setattr__(self, "top_k", -7)


SUBCLASSES = [NoCheck, NoCheckEither, Own, OwnThenBase]


@pytest.mark.parametrize("kind", SUBCLASSES)
def test_a_subclass_cannot_skip_the_checks(backend, kind):
    logits = normal(2, 10)
    given = kind(allowed_token_ids=[9], logit_bias={"3": 1}, eos_token_ids=4, seed=1)
    same = SamplingParams(allowed_token_ids=[9], logit_bias={3: 1.0}, eos_token_ids=4, seed=1)
    assert_same(backend.sample(logits, given), backend.sample(logits, same))
    assert from_text(given._text) == same
    for field, value in {
        "allowed_token_ids": [10**6],
        "logit_bias": {10**6: 1.0},
        "bad_words_ids": [[1, 10**6]],
        "eos_token_ids": 10**6,
    }.items():
        wrong, message = kind(**{field: value}), f"{field}: got token id 1000000; accepted: ids in \\[0, 10\\)"
        for call in (
            lambda wrong=wrong: backend.sample(logits, wrong),
            lambda wrong=wrong: backend.sample(logits, [SamplingParams(), wrong]),
            lambda wrong=wrong: backend.process_logits(logits, wrong),
            lambda wrong=wrong: backend.sampler(10, 2, 5).add(wrong, [1]),
        ):
            with pytest.raises(ValueError, match=message):
                call()


@pytest.mark.parametrize("kind", SUBCLASSES)
def test_a_subclass_refuses_what_its_base_refuses(kind):
    with pytest.raises(ValueError, match="top_k: got -5"):
        kind(top_k=-5)
    with pytest.raises(TypeError, match=r"allowed_token_ids\[0\]: got 1.5"):
        kind(allowed_token_ids=[1.5])
    with pytest.raises(ValueError, match="top_k: got -7"):
        Grandchild()


@pytest.mark.parametrize("kind", [SamplingParams, *SUBCLASSES])
def test_subclasses_are_copied_whole(kind):
    params = kind(top_k=3, allowed_token_ids=[1, 8], seed=5)
    for twin in (copy.copy(params), copy.deepcopy(params), pickle.loads(pickle.dumps(params))):
        assert twin == params and type(twin) is kind and hash(twin) == hash(params)
        assert twin._text == params._text and twin._largest_id == 8
    if kind is NoCheckEither:
        assert pickle.loads(pickle.dumps(kind(label="a"))).label == "a"


def test_a_pickle_is_checked():
    def forged(**changes):
        empty = object.__new__(SamplingParams)
        state = SamplingParams(**EVERYTHING).__getstate__() | changes
        empty.__setstate__(state)
        return empty

    assert forged() == SamplingParams(**EVERYTHING)
    with pytest.raises(ValueError, match="temperature: got -1"):
        forged(temperature=-1)
    with pytest.raises(ValueError, match="got token id 99; accepted: ids in"):
        check_vocab(forged(eos_token_ids=(99,)), 50)
    with pytest.raises(TypeError, match="new_p: not a field of SamplingParams"):
        forged(new_p=0.5)


class Fresh(Sequence):
    """Makes an element whenever it is asked for one, for ever."""

    def __init__(self, fields):
        self.fields, self.asked = fields, 0

    def __len__(self):
        return len(self.fields)

    def __getitem__(self, row):
        self.asked += 1
        return SamplingParams(**self.fields[row % len(self.fields)])


class Fickle(Sequence):
    """Answers with something else the second time."""

    def __init__(self, first, then):
        self.first, self.then = list(first), then

    def __len__(self):
        return len(self.first)

    def __getitem__(self, row):
        answer, self.first[row] = self.first[row], self.then
        return answer


def test_a_sequence_is_asked_once_for_each_row(backend):
    rows = 12
    logits = normal(rows, 40)
    fields = [{"allowed_token_ids": [row], "bad_words_ids": [[39 - row]], "seed": row} for row in range(rows)]
    params = [SamplingParams(**one) for one in fields]
    expected = backend.sample(logits, params, logprobs="processed")
    assert expected.token_ids.tolist() == list(range(rows))
    fresh = Fresh(fields)
    assert_same(backend.sample(logits, fresh, logprobs="processed"), expected)
    assert fresh.asked == rows
    wrong = SamplingParams(allowed_token_ids=[10**6])
    assert_same(backend.sample(logits, Fickle(params, wrong), logprobs="processed"), expected)
    scores = backend.process_logits(logits, params)
    assert torch.equal(backend.process_logits(logits, Fresh(fields)), scores)
    assert torch.equal(backend.process_logits(logits, Fickle(params, wrong)), scores)
    with pytest.raises(TypeError, match="row 2: params: got int; accepted: SamplingParams"):
        backend.sample(logits, Fickle([*params[:2], 3, *params[3:]], wrong))
    assert len(pld.sample(logits[:0], Fresh([])).token_ids) == 0

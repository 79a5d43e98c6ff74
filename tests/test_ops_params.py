"""Parameters that are made in a compiled function."""

import pytest
from cases import assert_equal, normal
from compiling import Counting, V, compiled, nothing_compiled, pytestmark  # noqa: F401

import pyllmdecode as pld
from pyllmdecode import SamplingParams

MAKERS = {
    "temperature": lambda x: SamplingParams(temperature=x, seed=1),
    "top_k": lambda x: SamplingParams(top_k=int(10 * x), temperature=9.0, seed=1),
    "top_p, none": lambda x: SamplingParams(top_k=None, top_p=x, seed=1),
    "penalties": lambda x: SamplingParams(repetition_penalty=1 + x, presence_penalty=x, frequency_penalty=-x, seed=1),
    "bias": lambda x: SamplingParams(logit_bias={int(10 * x): 50 * x}, seed=1),
    "ids": lambda x: SamplingParams(allowed_token_ids=[1, 2, int(10 * x)], bad_words_ids=[[int(20 * x)]], seed=1),
    "eos": lambda x: SamplingParams(eos_token_ids=int(10 * x), min_new_tokens=2, temperature=0.0),
    "seed": lambda x: SamplingParams(seed=int(10 * x)),
}


@pytest.mark.parametrize("name", MAKERS)
def test_parameters_made_from_changing_numbers(name):
    """Each value is a constant of a graph of its own."""
    make, counting, logits = MAKERS[name], Counting(), normal(3, V)

    def draw(x, value):
        return pld.process_logits(x, make(value), [[1, 5]] * 3), pld.sample(x, make(value), [[1, 5]] * 3).token_ids

    function = compiled(draw, counting)
    values = [0.5, 0.7, 0.9, 0.3]
    for value in [*values, *values]:
        got, expected = function(logits, value), draw(logits, value)
        assert_equal(got[0], expected[0], f"scores at {value}")
        assert_equal(got[1], expected[1], f"token_ids at {value}")
    assert counting.graphs == len(values)


def test_unknown_names_and_wrong_values_in_a_compiled_function():
    def unknown(x):
        return pld.sample(x, SamplingParams(repeat_penalty=1.1)).token_ids

    def wrong(x):
        return pld.sample(x, SamplingParams(top_p=2.0)).token_ids

    for function, message in ((unknown, "here: repetition_penalty"), (wrong, "top_p: got 2.0; accepted: a number in")):
        with pytest.raises(Exception, match=message):
            compiled(function)(normal(3, V))

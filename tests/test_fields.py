"""Every field of SamplingParams does something, on every backend, in a call and in a sampler."""

import dataclasses
import functools

import pytest
import torch
from cases import INF, NAN, assert_equal, assert_same, normal

import pyllmdecode as pld
from pyllmdecode import SamplingParams
from pyllmdecode.backends.not_offered import BACKENDS
from pyllmdecode.logprobs import wanted
from pyllmdecode.more_checks import FIELDS

# Nine tokens: 0 and 1 are alike and the most probable, 2 is close. History: 2 0 1 2, of which 1 2 was generated.
LOGITS = torch.tensor([[3.0, 3.0, 2.9, 1.0, 0.5, 0.0, -1.0, -2.0, -3.0]])
HISTORY, PROMPT_LENGTH = [2, 0, 1, 2], 2
# Field -> its value, and the other fields it needs to be of effect.
EXAMPLES = {
    "temperature": (0.0, {}),
    "top_k": (3, {}),
    "top_p": (0.5, {}),
    "min_p": (0.5, {}),
    "repetition_penalty": (2.0, {}),
    "presence_penalty": (1.0, {}),
    "frequency_penalty": (1.0, {}),
    "no_repeat_ngram_size": (2, {}),
    "logit_bias": ({4: 2.0}, {}),
    "allowed_token_ids": ([1, 2, 5], {}),
    "bad_words_ids": ([[2, 1]], {}),
    "min_new_tokens": (3, {"eos_token_ids": [0, 3]}),
    "eos_token_ids": ([0, 3], {"min_new_tokens": 3}),
    "logprobs": ("both", {}),
    "top_logprobs": (5, {}),
    "repetition_detection": (pld.RepetitionDetection(1), {"logit_bias": {2: 5.0}, "temperature": 0.0}),
    "seed": (2, {"temperature": 100.0}),
    "top_n_sigma": (0.5, {}),
    "min_k": (0.0, {}),
    "p_less": (True, {}),
    "top_h": (0.5, {}),
    "epsilon_cutoff": (0.1, {}),
    "eta_cutoff": (0.4, {}),
    "typical_p": (0.5, {}),
    "xtc_probability": (1.0, {}),
    "xtc_threshold": (0.3, {"xtc_probability": 1.0}),
    "min_tokens_to_keep": (4, {"top_k": 1}),
    "dynatemp_range": (0.5, {}),
    "dynatemp_exponent": (2.0, {"dynatemp_range": 0.5}),
    "temperature_last": (True, {"temperature": 3.0, "min_p": 0.3}),
    "penalty_last_n": (1, {"repetition_penalty": 2.0}),
    "repetition_scope": ("prompt", {"repetition_penalty": 2.0}),
    "count_scope": ("all", {"presence_penalty": 1.0}),
    "ngram_scope": ("generated", {"no_repeat_ngram_size": 2}),
    "bad_words_scope": ("generated", {"bad_words_ids": [[0, 1, 2, 0]]}),
    "sequence_bias": ({(1, 2, 5): 3.0}, {}),
    "suppress_token_ids": ([4], {}),
    "begin_suppress_token_ids": ([1], {"seed": None}),  # nothing here has generated no token
    "forced_tokens": ({2: 4}, {}),
    "forced_eos": (3, {"eos_token_ids": [5]}),
    "exponential_decay_length_penalty": ((0, 3.0), {"eos_token_ids": [3]}),
    "encoder_ids": ([1, 5], {"encoder_repetition_penalty": 2.0}),
    "encoder_repetition_penalty": (2.0, {"encoder_ids": [1, 5]}),
    "encoder_no_repeat_ngram_size": (2, {"encoder_ids": [2, 5]}),
    "dry_multiplier": (1.0, {"dry_allowed_length": 1}),
    "dry_base": (5.0, {"dry_multiplier": 1.0, "seed": None}),  # the history is too short to repeat more than one
    "dry_allowed_length": (1, {"dry_multiplier": 1.0}),
    "dry_penalty_last_n": (3, {"dry_multiplier": 1.0, "dry_allowed_length": 1}),
    "dry_sequence_breakers": ([0], {"dry_multiplier": 1.0, "dry_allowed_length": 1}),
    "draw": ("gumbel", {"temperature": 100.0}),
}


def outcomes(backend, params):
    """What a call gives, and a sampler, in which what was generated stands in the history by steps."""
    out = backend.sample(
        LOGITS, params, [HISTORY], prompt_lengths=[PROMPT_LENGTH], positions=[4], logprobs="processed", top_logprobs=9
    )
    scores = backend.process_logits(LOGITS, params, [HISTORY], prompt_lengths=[PROMPT_LENGTH])
    sampler = backend.sampler(LOGITS.shape[1], 1, 9)
    slot = sampler.add(params, HISTORY[:PROMPT_LENGTH])
    for token in HISTORY[PROMPT_LENGTH:]:
        only = torch.full_like(LOGITS, -INF)
        only[0, token] = INF  # no parameter here changes that it is drawn, but bans
        sampler.step(backend.move(only))
    step = sampler.step(backend.move(LOGITS), logprobs="processed", top_logprobs=9)
    stepped = step._replace(**{name: t.cpu().clone() for name, t in step._asdict().items() if t is not None})
    return out, scores, stepped, sampler.history(slot).tolist()


@functools.cache
def by_the_reference(params):
    rows = [torch.tensor(HISTORY)]
    seed = [params.seed]
    asked = wanted("processed", 9, [params])
    out = pld.reference.sample_step(LOGITS, [params], rows, [PROMPT_LENGTH], [4], seed, None, asked)
    return out, pld.reference.process_logits(LOGITS, [params], rows, [PROMPT_LENGTH])


def differ(one, other):
    pairs = zip([*one[0], one[1]], [*other[0], other[1]], strict=True)
    return any(a is not b and (a is None or b is None or not torch.equal(a, b)) for a, b in pairs)


@pytest.mark.parametrize("field", [field.name for field in dataclasses.fields(SamplingParams)])
def test_every_field_changes_a_result(backend, field):
    assert field in EXAMPLES, f"no example for {field}: a backend that ignores it would not be found"
    value, others = EXAMPLES[field]
    if field in FIELDS and backend.name in BACKENDS:
        pytest.skip(f"backend {backend}: does not have {field} yet, and says so (test_extras.py)")
    if "seed" in others:
        pytest.skip(f"{field} has no effect on this history; it has tests of its own (test_extras.py)")
    without = SamplingParams(**{"seed": 1} | others)
    given = dataclasses.replace(without, **{field: value})
    plain, changed = outcomes(backend, without), outcomes(backend, given)
    assert differ(changed[:2], plain[:2]), "sample and process_logits"
    assert differ(changed[2:3] + plain[1:2], plain[2:3] + plain[1:2]), "Sampler"
    assert_same(changed[0], by_the_reference(given)[0])
    assert_equal(changed[1], by_the_reference(given)[1], "process_logits")
    assert changed[3][: len(HISTORY)] == HISTORY
    assert_same(changed[2], changed[0])


@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_a_bias_of_minus_infinity_bans(backend, temperature):
    """As bad words of one token do, also of +inf; only a NaN that was among the logits is flagged."""
    vocab = 70
    logits = normal(5, vocab)
    banned = [0, 3, 64, vocab - 1]
    logits[1, banned] = INF
    logits[2, 3] = -INF
    logits[3, 3] = NAN
    logits[4] = INF
    history = [[3, 3, 5]] * 5
    common = {"temperature": temperature, "seed": 4, "repetition_penalty": 1.3, "frequency_penalty": -0.5, "top_k": 9}
    by_bias = SamplingParams(logit_bias=dict.fromkeys(banned, -INF) | {5: 1.0}, **common)
    by_words = SamplingParams(bad_words_ids=[[token] for token in banned], logit_bias={5: 1.0}, **common)
    options = {"prompt_lengths": [0] * 5, "logprobs": "processed", "top_logprobs": 5}
    got = backend.sample(logits, by_bias, history, **options)
    assert got.status.tolist() == [0, 0, 0, pld.NAN_LOGITS, 0]
    assert not set(got.token_ids.tolist()) & set(banned)
    assert_same(got, pld.sample(logits, by_words, history, backend="reference", **options))
    scores = backend.process_logits(logits, by_bias, history, prompt_lengths=[0] * 5)
    expected = pld.process_logits(logits, by_words, history, prompt_lengths=[0] * 5, backend="reference")
    assert_equal(scores, expected, "process_logits")
    sampler = backend.sampler(vocab, 5, 9)
    for _ in range(5):
        sampler.add(by_bias, history[0])
    step = sampler.step(backend.move(logits))
    assert step.status.tolist() == got.status.tolist() and not set(step.token_ids.tolist()) & set(banned)


def test_everything_banned_by_biases_is_an_empty_row(backend):
    logits = torch.tensor([[1.0, INF, -INF, 0.0]])
    out = backend.sample(logits, SamplingParams(logit_bias=dict.fromkeys(range(4), -INF)))
    assert (out.token_ids.item(), out.kept.item(), out.status.item()) == (-1, 0, pld.EMPTY_ROW)

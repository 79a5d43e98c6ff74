"""What is done about loops: by the built-in answers, by a function, and by the decode loop with a model."""

import dataclasses

import pytest
import torch

import pyllmdecode as pld
from pyllmdecode import RepetitionDetection, SamplingParams, policies
from pyllmdecode.policies import LoopPolicy, Response

V = 12
DETECTION = RepetitionDetection(4, min_count=3)


def looping(history):
    """Logits of a model that goes on with 1 2 3 for ever, and would rather have 7, 8 or 9 than anything else."""
    logits = torch.full((1, V), -20.0)
    logits[0, 7:10] = 0.0
    logits[0, {1: 2, 2: 3, 3: 1}.get(history[-1], 1)] = 5.0
    return logits


def run(backend, policy, params=None, steps=40):
    """-> the tokens, why they ended, and the answers with the number of tokens at the time."""
    sampler = backend.sampler(V, 1, 100)
    params = params or SamplingParams(temperature=0, seed=3)
    slot = sampler.add(policy.watched(params), [0])
    tokens, answers = [], []
    for _ in range(steps):
        out = sampler.step(backend.move(looping([0, *tokens])))
        tokens.append(out.token_ids.item())
        for of, answer in policy.after(sampler, [slot], out).items():
            assert of == slot
            answers.append((len(tokens), answer))
            del tokens[len(tokens) - answer.rewind :]
            assert sampler.history(slot).tolist() == [0, *tokens]
            if answer.stop:
                return tokens, answers, sampler
    return tokens, answers, sampler


def test_stop_leaves_the_first_block(backend):
    tokens, answers, _ = run(backend, LoopPolicy(policies.stop, DETECTION))
    assert tokens == [1, 2, 3] and answers == [(9, Response(stop=True, rewind=6))]


def test_regenerate_tries_harder_and_then_stops(backend):
    tried = []

    def harder(params, number):
        tried.append(number)
        return dataclasses.replace(params, no_repeat_ngram_size=3 if number > 1 else 0)

    policy = LoopPolicy(policies.regenerate(tokens=4, tries=2, harder=harder), DETECTION)
    tokens, answers, sampler = run(backend, policy)
    assert tried == [1, 2]
    # The first try changes nothing; the second bans the loop for four tokens, after which it comes back.
    assert [at for at, _ in answers] == [9, 9, answers[2][0]] and answers[2][1].stop
    assert tokens[:4] != [1, 2, 3, 1] or tokens[3:6] != [1, 2, 3]
    assert pld.repetition.detect(tokens, DETECTION).first is None
    assert sampler.params(0).no_repeat_ngram_size in (0, 3)


def test_parameters_come_back(backend):
    policy = LoopPolicy(
        policies.regenerate(tokens=3, tries=9, harder=lambda params, _: SamplingParams(top_k=1)), DETECTION
    )
    sampler = backend.sampler(V, 1, 100)
    params = policy.watched(SamplingParams(temperature=0, seed=3))
    slot, tokens, kinds = sampler.add(params, [0]), [], []
    for _ in range(13):
        out = sampler.step(backend.move(looping([0, *tokens])))
        tokens.append(out.token_ids.item())
        for answer in policy.after(sampler, [slot], out).values():
            del tokens[len(tokens) - answer.rewind :]
        kinds.append(sampler.params(slot).top_k)
        assert sampler.params(slot).seed == 3 and sampler.params(slot).repetition_detection == DETECTION
    assert kinds == [0] * 8 + [1, 1, 1, 0, 0] and sampler.params(slot) == params


@pytest.mark.thorough("triton")
def test_the_default_ends_the_loop(backend):
    tokens, answers, _ = run(backend, LoopPolicy(detection=DETECTION), steps=60)
    assert pld.repetition.detect(tokens, DETECTION).first is None and answers


def test_escape_forces_its_tokens_once(backend):
    tokens, answers, _ = run(backend, LoopPolicy(policies.escape([7, 8]), DETECTION))
    assert tokens == [1, 2, 3, 7, 8, 1, 2, 3] and [answer.stop for _, answer in answers] == [False, True]


@pytest.mark.thorough("triton")
def test_resample_takes_other_random_numbers(backend):
    policy = LoopPolicy(policies.resample(tries=3), DETECTION)
    warm = SamplingParams(temperature=2.0, seed=5)
    tokens, answers, sampler = run(backend, policy, warm, steps=200)
    assert len(answers) == 4 and answers[-1][1].stop
    seeds = [answer.params.seed for _, answer in answers[:-1]]
    assert len({5, *seeds}) == 4 and sampler.params(0).seed == seeds[-1]
    assert run(backend, LoopPolicy(policies.resample(), DETECTION))[1][0][1].stop, "greedy"


def test_a_function_of_ones_own(backend):
    seen = []

    def respond(loop):
        seen.append(loop)
        return Response(rewind=10**6, stop=loop.tries == 2)

    tokens, answers, _ = run(backend, LoopPolicy(respond, DETECTION))
    assert tokens == [] and [answer.rewind for _, answer in answers] == [9, 9]
    assert seen[0][2:] == (3, 6, 9, 1) and seen[1].tries == 2 and seen[0].params.repetition_detection == DETECTION
    with pytest.raises(TypeError, match="respond: returned str; accepted: a Response"):
        run(backend, LoopPolicy(lambda loop: "stop", DETECTION))


def test_the_alarm_is_answered_too(backend):
    alarm = RepetitionDetection(0, window=8, n=2, threshold=0.5)
    tokens, answers, _ = run(backend, LoopPolicy(policies.stop, alarm))
    assert answers == [(8, Response(stop=True, rewind=4))] and tokens == [1, 2, 3, 1]


def test_requests_are_told_apart(backend):
    policy = LoopPolicy(policies.regenerate(tries=0), DETECTION)
    sampler = backend.sampler(V, 2, 60)
    logits = torch.cat([looping([1]), looping([2])])
    logits[0, 5], logits[1, 6] = 9.0, 9.0
    one = sampler.add(policy.watched(SamplingParams(temperature=0)), [1])
    sampler.step(backend.move(logits[:1]))
    other = sampler.add(policy.watched(SamplingParams(temperature=0)), [2])
    told = []
    for turn in range(3):
        out = sampler.step(backend.move(logits))
        told += [(turn, slot) for slot in policy.after(sampler, [one, other], out)]
    assert told == [(1, one), (2, other)] or told == [(1, one), (2, one), (2, other)]
    policy.forget(one)
    assert not policy._requests.keys() - {other}


def test_own_detection_of_a_request_stays():
    mine = SamplingParams(repetition_detection=RepetitionDetection(2))
    assert LoopPolicy().watched(mine) is mine
    assert LoopPolicy().watched(SamplingParams(seed=1)).repetition_detection == policies.DETECTION


@pytest.mark.parametrize("call", [lambda: policies.regenerate(0), lambda: policies.resample(-1)])
def test_wrong_numbers(call):
    with pytest.raises(ValueError, match="got"):
        call()

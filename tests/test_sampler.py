"""`Sampler` on every backend against a plain model of it: lists of tokens, and the stateless reference with them."""

import dataclasses

import numpy as np
import pytest
import torch
from cases import INF, LISTS, NAN, assert_equal, draws, hard_params, normal, repetitive
from interpreter import GPU
from sampler_model import VOCAB, Mirror

import pyllmdecode as pld
from pyllmdecode import BAD_HISTORY_ID, EMPTY_ROW, HISTORY_FULL, SamplingParams


def test_continuous_batching(backend):
    """Requests with all kinds of parameters join, leave, fork and step in subsets, in any order."""
    rng = np.random.default_rng(0)
    mirror = Mirror(backend, vocab=600, max_batch=6, max_length=90)
    kinds = list(hard_params(600).values())
    turns = backend.fewer(160, 50)
    for turn in range(turns):
        if mirror.free and (rng.random() < 0.3 or not mirror.requests):
            prompt = repetitive(int(rng.integers(0, 40)), int(rng.choice([2, 9, 600])), seed=turn)
            if turn % 5 == 0:
                prompt[::7] = [-1, 600, 2**40, -5][turn // 5 % 4 :][:1] * len(prompt[::7])
            mirror.add(dataclasses.replace(kinds[turn % len(kinds)], seed=turn), prompt)
        elif mirror.free and rng.random() < 0.1:
            params = dataclasses.replace(kinds[turn % len(kinds)], seed=turn)
            mirror.fork(int(rng.choice(list(mirror.requests))), params if turn % 2 else None)
        elif rng.random() < 0.1:
            mirror.remove(int(rng.choice(list(mirror.requests))))
        slots = mirror.with_room()
        if rng.random() < 0.5 or slots != sorted(mirror.requests):
            slots = rng.permutation(slots)[: rng.integers(0, len(slots) + 1)].tolist()
            given = [torch.tensor(slots, dtype=torch.int64), slots, tuple(slots)][turn % 3]
        else:
            given = None
        logits = normal(len(slots), 600, seed=turn).round(decimals=turn % 3)
        logits[turn % 2 :: 4, turn % 600] = [INF, NAN, -INF, 3e38][turn % 4]
        if turn % 9 == 0:
            logits[:1] = -INF
        options = dict(LISTS[turn % len(LISTS)])
        if turn % 4 == 1:
            options["uniforms"] = draws(len(slots), seed=turn)
        mirror.step(logits.to([torch.float32, torch.float16, torch.bfloat16][turn % 3]), given, **options)
    assert max(len(request.tokens) for request in mirror.requests.values()) > turns // 4


def test_counts_over_a_long_generation(backend):
    """A token drawn a hundred times has been penalised a hundred times, whatever happened to the slot in between."""
    mirror = Mirror(backend, vocab=12, max_batch=3, max_length=420)
    params = SamplingParams(frequency_penalty=0.05, presence_penalty=0.4, repetition_penalty=1.1, seed=3)
    mirror.add(params, [0, 1, 1, 11])
    mirror.add(SamplingParams(frequency_penalty=-0.01, no_repeat_ngram_size=5, seed=4), [])
    turns = backend.fewer(400, 80)
    for turn in range(turns):
        mirror.step(normal(len(mirror.requests), 12, seed=turn))
        if turn == turns // 2:
            mirror.fork(0)
        if turn == turns * 3 // 4:
            mirror.remove(0)
    assert max(np.bincount(mirror.requests[2].tokens)) >= turns * 3 // 40


def test_ngrams_of_generated_tokens(backend):
    """Tokens beyond 8 bits, drawn in circles until the ban ends it: later steps look at what earlier ones appended."""
    mirror = Mirror(backend, vocab=700, max_batch=2, max_length=60)
    mirror.add(SamplingParams(temperature=0.0, no_repeat_ngram_size=2), [1])
    mirror.add(SamplingParams(temperature=0.0, no_repeat_ngram_size=3, repetition_penalty=1.01), [])
    for turn in range(40):
        logits = normal(2, 700, seed=turn % 3)
        logits[:, [130 + turn % 3, 259 + turn % 3, 515]] += torch.tensor([30.0, 29.0, 28.0])
        mirror.step(logits)
    drawn = mirror.requests[0].tokens
    assert len(set(zip(drawn, drawn[1:]))) == len(drawn) - 1 and max(drawn) > 258


def test_a_biased_token_is_counted_once_drawn(backend):
    """It is known from the start, for its bias, and joins the history with its first draw."""
    mirror = Mirror(backend, vocab=40, max_batch=1, max_length=30)
    bias = {5: 9.0, 11: 8.0, 12: -3.0}
    mirror.add(SamplingParams(logit_bias=bias, frequency_penalty=0.75, presence_penalty=0.5, temperature=0.0), [12])
    for turn in range(25):
        mirror.step(normal(1, 40, seed=turn % 2))
    drawn = mirror.requests[0].tokens[1:]
    assert drawn[0] in (5, 11) and {5, 11} < set(drawn)


def test_empty_rows_do_not_advance(backend):
    mirror = Mirror(backend)
    params = SamplingParams(seed=9)
    mirror.add(params, [5, 6])
    mirror.add(params, [5, 6])
    logits = normal(2, VOCAB, seed=1)
    blocked = logits.clone()
    blocked[0] = -INF
    out = mirror.step(blocked, logprobs="raw", top_logprobs=2)
    assert out.token_ids[0] == -1 and out.status.tolist() == [EMPTY_ROW, 0]
    assert mirror.sampler.history(0).tolist() == [5, 6] and len(mirror.sampler.history(1)) == 3
    token = mirror.step(logits[:1], [0]).token_ids
    assert mirror.sampler.history(0).tolist() == [5, 6, token.item()]
    # The position was that of the second token, so the draw is the one that row 1 had then.
    assert_equal(mirror.sampler.history(1)[2:], pld.sample(logits[1:], params, [[5, 6]]).token_ids, "token")
    # A full slot whose row turns out empty has both flags.
    mirror = Mirror(backend, max_length=2)
    mirror.add(params, [5, 6])
    mirror.step(torch.full((1, VOCAB), -INF))


def test_many_empty_steps_leave_the_room_as_it_is(backend):
    mirror = Mirror(backend, max_length=3)
    mirror.add(SamplingParams(seed=1), [])
    for _ in range(5):
        mirror.step(torch.full((1, VOCAB), NAN))
    for _ in range(3):
        mirror.step(normal(1, VOCAB))
    mirror.step(normal(1, VOCAB))


def test_full_history(backend):
    """That row gets no token and a flag, whatever was asked for; the others go on."""
    mirror = Mirror(backend, max_length=5)
    mirror.add(SamplingParams(seed=1, temperature=0), [])
    mirror.add(SamplingParams(seed=2), [1, 2, 3])
    logits = normal(2, VOCAB)
    for _ in range(2):
        mirror.step(logits)
    for turn, slots in enumerate((None, [0, 1], [1, 0], [1])):
        out = mirror.step(logits if slots != [1] else logits[:1], slots, **LISTS[turn])
        assert (out.status == HISTORY_FULL).sum() == 1 and (out.token_ids < 0).sum() == 1
    assert len(mirror.requests[1].tokens) == 5 == len(mirror.requests[0].tokens)
    mirror.step(torch.full((2, VOCAB), NAN), logprobs="processed", top_logprobs=2)
    with pytest.raises(pld.RowError, match="row 0: HISTORY_FULL .*max_length tokens"):
        mirror.sampler.step(logits.to(mirror.sampler.device), check=True)
    mirror.remove(1)
    mirror.add(SamplingParams(seed=2), [1, 2, 3])
    mirror.step(logits)
    mirror.add(SamplingParams(), [4] * 5)
    mirror.step(normal(3, VOCAB))
    with pytest.raises(ValueError, match=r"prompt_ids: got 6 tokens; accepted: at most max_length = 5"):
        mirror.sampler.add(SamplingParams(), [4] * 6)
    mirror.check()


def test_room_is_counted_anew(backend):
    """For whoever takes over a slot in the middle of steps that all have the same rows."""
    mirror = Mirror(backend, max_batch=2, max_length=9)
    for prompt in ([], [1] * 9, [2], [3] * 8):
        mirror.add(SamplingParams(seed=len(prompt)), prompt)
        for turn in range(3):
            mirror.step(normal(1, VOCAB, seed=turn))
        mirror.remove(0)
    mirror.add(SamplingParams(seed=1), [4] * 7)
    mirror.step(normal(1, VOCAB))
    assert mirror.fork(0) == 1
    mirror.remove(0)
    mirror.add(SamplingParams(seed=2), [])
    for turn in range(4):
        mirror.step(normal(2, VOCAB, seed=turn))
        mirror.step(normal(1, VOCAB, seed=turn), [0])


def test_slots(backend):
    mirror = Mirror(backend, max_batch=3)
    for seed in range(3):
        mirror.add(SamplingParams(seed=seed), [seed])
    for refused in (lambda: mirror.sampler.add(SamplingParams(), []), lambda: mirror.sampler.fork(0)):
        with pytest.raises(RuntimeError, match="no free slot: all 3 are taken"):
            refused()
    mirror.remove(1)
    mirror.remove(0)
    assert mirror.add(SamplingParams(seed=7), []) == 0
    assert mirror.fork(2) == 1
    mirror.step(normal(3, VOCAB))
    mirror.step(normal(3, VOCAB), (2, 0, 1))
    mirror.step(normal(0, VOCAB), [])
    mirror.step(normal(2, VOCAB), range(1, 3))
    mirror.step(normal(2, VOCAB), np.array([2, 0]))


def test_a_slot_has_no_memory_of_its_former_request(backend):
    """Penalties, counts, bans, lists, flags and length all begin anew."""
    mirror = Mirror(backend, max_batch=1)
    everything = dataclasses.replace(hard_params(VOCAB)["everything"], seed=1)
    penalties = SamplingParams(frequency_penalty=2.0, repetition_penalty=1.5, seed=2)
    for turn, params in enumerate([everything, penalties] * 3):
        mirror.add(params, [[1, 2, 1, 2, -1], [3], []][turn % 3])
        for step in range(6 + turn):
            out = mirror.step(normal(1, VOCAB, seed=step), top_logprobs=3)
        assert out.status.item() == (BAD_HISTORY_ID if turn % 3 == 0 else 0)
        mirror.remove(0)


def test_prompts_in_every_form(backend):
    tokens = [3, 39, 3, -1, 40, 2**33]
    strided = torch.tensor([tokens, tokens]).t().reshape(-1)[::2]
    forms = [tokens, tuple(tokens), torch.tensor(tokens), strided, np.array(tokens)]
    mirror = Mirror(backend, max_batch=8)
    for form in forms:
        mirror.add(SamplingParams(seed=5, repetition_penalty=1.5), form)
    for dtype in (torch.int32, torch.int16, torch.uint8):
        mirror.add(SamplingParams(seed=5, repetition_penalty=1.5), torch.tensor([3, 39, 3, 200, 201, 202], dtype=dtype))
    out = mirror.step(normal(1, VOCAB).expand(8, -1))
    assert out.status.tolist() == [BAD_HISTORY_ID] * 8 and len(set(out.token_ids.tolist())) == 1


def test_nothing_given_is_kept_or_handed_out(backend):
    """Later writes to the prompt, to the logits or to history() do not reach the sampler."""
    mirror = Mirror(backend)
    prompt = torch.tensor([1, 2, 3])
    mirror.add(SamplingParams(seed=1, repetition_penalty=2.0), prompt)
    prompt.fill_(7)
    mirror.requests[0].tokens[:] = [1, 2, 3]
    mirror.sampler.history(0).fill_(9)
    mirror.check()
    logits = normal(1, VOCAB)
    mirror.step(logits)
    logits.fill_(NAN)
    mirror.step(normal(1, VOCAB, seed=2))


def test_outputs_are_the_callers(backend):
    """Whatever the steps that follow do."""
    sampler = backend.sampler(VOCAB, 2, 64)
    sampler.add(SamplingParams(seed=1), [])
    steps, copies = [], []
    for turn in range(6):
        options = LISTS[turn % 3]
        steps.append(sampler.step(backend.move(normal(1, VOCAB, seed=turn)), **options))
        copies.append([None if t is None else t.clone() for t in steps[-1]])
    for step, copy in zip(steps, copies):
        for one, same in zip(step, copy, strict=True):
            assert one is None if same is None else torch.equal(one, same)
    assert sampler.history(0).tolist() == [step.token_ids.item() for step in steps]


@pytest.mark.parametrize("name", ["cpu", "triton", "cuda"])
def test_outputs_that_are_reused(name):
    """Steps like the last one write to its tensors, until somebody takes the memory away from them."""
    if not pld.backends()[name]:
        pytest.skip(pld.backends()[name].reason)
    device = "cuda" if GPU and name != "cpu" else "cpu"
    sampler = pld.Sampler(VOCAB, 2, 64, device=device, backend=name, reuse_outputs=True)
    sampler.add(SamplingParams(seed=1), [])
    sampler.add(SamplingParams(seed=2), [])

    def step(rows=2):
        return sampler.step(normal(rows, VOCAB, seed=3).to(device), range(rows)).token_ids

    with torch.inference_mode():
        first = step()
    assert not first.is_inference()
    assert step().data_ptr() == first.data_ptr()
    assert step(1).data_ptr() != first.data_ptr()
    second = step()
    second.set_(torch.zeros(2, dtype=torch.int64, device=device))
    third = step()
    assert third.tolist() == sampler.history(0)[-1:].tolist() + sampler.history(1)[-1:].tolist()
    if device == "cpu":
        third.share_memory_()
        assert step().tolist() == [sampler.history(slot)[-1].item() for slot in (0, 1)]


def generated(sampler, slot, steps):
    return [sampler.step(normal(1, VOCAB, seed=s).to(sampler.device), [slot]).token_ids.item() for s in range(steps)]


def test_seeds(backend):
    """A seed that is not given is drawn once, at add and at fork; steps draw none."""
    sampler = backend.sampler(VOCAB, 8, 64)
    torch.manual_seed(1)
    a, b = (sampler.add(SamplingParams(), []) for _ in range(2))
    torch.manual_seed(1)
    c = sampler.add(SamplingParams(), [])
    state = torch.get_rng_state()
    given = sampler.add(SamplingParams(seed=11), [])
    tokens = {slot: generated(sampler, slot, 30) for slot in (a, b, c, given)}
    assert torch.equal(torch.get_rng_state(), state)
    assert tokens[a] == tokens[c] != tokens[b]
    sampler.remove(b)
    same, fresh = sampler.fork(given), sampler.fork(a)
    other = sampler.fork(a, SamplingParams(seed=11))
    assert sampler.history(fresh).tolist() == tokens[a]
    state_after = torch.get_rng_state()
    more = {slot: generated(sampler, slot, 30) for slot in (given, same, a, fresh, other)}
    assert more[given] == more[same] == more[other] and more[a] != more[fresh] != more[given]
    assert torch.equal(torch.get_rng_state(), state_after) and not torch.equal(state_after, state)

"""What only a GPU shows: CUDA graphs, streams, and that a step neither allocates nor waits."""

import dataclasses

import pytest
import torch
from cases import assert_equal, hard_params, normal, repetitive
from interpreter import GPU

import pyllmdecode as pld
from pyllmdecode import SamplingParams

pytestmark = pytest.mark.skipif(not GPU, reason="torch finds no GPU here")
BACKENDS = ("triton", "cuda")
VOCAB = 20_000
REQUESTS = [
    SamplingParams(top_k=50, top_p=0.95, repetition_penalty=1.2, no_repeat_ngram_size=3, seed=1),
    SamplingParams(top_p=0.9, frequency_penalty=0.3, seed=2),
    SamplingParams(temperature=0.0, no_repeat_ngram_size=2),
    SamplingParams(temperature=1.5, min_p=0.01, logit_bias={5: 3.0}, seed=3),
]


@pytest.fixture(params=BACKENDS)
def name(request):
    """A backend that runs on a GPU."""
    state = pld.backends()[request.param]
    if not state:
        pytest.skip(f"backend {request.param}: {state.reason}")
    return request.param


def pair(name, rows=4, length=200):
    """A sampler on the GPU, and one of the reference with the same requests."""
    samplers = pld.Sampler(VOCAB, rows, length, device="cuda", backend=name), pld.Sampler(VOCAB, rows, length)
    for sampler in samplers:
        for row in range(rows):
            sampler.add(REQUESTS[row % len(REQUESTS)], repetitive(20, 50, seed=row))
    return samplers


def test_a_replayed_graph_draws_fresh_tokens(name):
    sampler, reference = pair(name)
    logits = torch.empty(4, VOCAB, device="cuda", dtype=torch.bfloat16)
    given = [normal(4, VOCAB, seed=turn).bfloat16() for turn in range(30)]
    sampler.warm_up(torch.bfloat16)
    logits.copy_(given[0])
    sampler.step(logits)
    reference.step(given[0])
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        out = sampler.step(logits)
    drawn = []
    for one in given[1:]:
        logits.copy_(one)
        graph.replay()
        expected = reference.step(one)
        for got, wanted, field in zip((out.token_ids, out.kept, out.status), (expected[0], *expected[4:]), "tks"):
            assert_equal(got.cpu(), wanted, field)
        drawn.append(tuple(out.token_ids.tolist()))
    assert len(set(drawn)) > 20
    for slot in range(4):
        assert_equal(sampler.history(slot).cpu(), reference.history(slot), f"history of slot {slot}")


def test_a_graph_serves_requests_that_join_later(name):
    sampler, reference = pair(name)
    logits = normal(4, VOCAB).to("cuda")
    sampler.step(logits)
    reference.step(logits.cpu())
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        out = sampler.step(logits)
    params = list(hard_params(VOCAB).values())
    for turn in range(12):
        for one in (sampler, reference):
            one.remove(turn % 4)
            one.add(dataclasses.replace(params[turn * 5 % len(params)], seed=turn), repetitive(30, VOCAB, seed=turn))
        graph.replay()
        assert_equal(out.token_ids.cpu(), reference.step(logits.cpu()).token_ids, f"turn {turn}")


def test_requests_are_controlled_between_replays(name):
    sampler, reference = pair(name)
    logits = normal(4, VOCAB).to("cuda")
    sampler.step(logits)
    reference.step(logits.cpu())
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        out = sampler.step(logits)
    for turn in range(15):
        for one in (sampler, reference):
            slot = turn % 4
            one.append(slot, repetitive(turn % 3, VOCAB, seed=turn))
            one.rewind((slot + 1) % 4, turn % 5)
            one.update((slot + 2) % 4, REQUESTS[turn % 3])
            data = one.snapshot((slot + 3) % 4)
            one.remove((slot + 3) % 4)
            assert one.restore(data) == (slot + 3) % 4
        graph.replay()
        assert_equal(out.token_ids.cpu(), reference.step(logits.cpu()).token_ids, f"turn {turn}")


def test_control_does_not_wait(name):
    sampler, _ = pair(name)
    logits = normal(4, VOCAB).to("cuda")
    sampler.step(logits)
    torch.cuda.synchronize()
    torch.cuda.set_sync_debug_mode("error")
    try:
        for slot in range(4):
            sampler.update(slot, REQUESTS[slot - 1])
            sampler.append(slot, [1, 2, 3])
            sampler.rewind(slot, 2)
            sampler.step(logits)
    finally:
        torch.cuda.set_sync_debug_mode("default")


def test_a_replay_after_the_request_has_left(name):
    """Nothing is read or written that may belong to others by now."""
    sampler = pld.Sampler(VOCAB, 1, 100, device="cuda", backend=name)
    sampler.add(dataclasses.replace(hard_params(VOCAB)["everything"], seed=1), repetitive(30, VOCAB))
    logits = normal(1, VOCAB).to("cuda")
    sampler.step(logits)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        out = sampler.step(logits)
    sampler.remove(0)
    torch.cuda.synchronize()
    others = torch.full((1 << 20,), 7, device="cuda")  # may get the memory
    graph.replay()
    assert out.token_ids.tolist() == logits.argmax(1).tolist() and (others == 7).all()


def test_a_full_history_is_left_alone_by_a_replay(name):
    sampler = pld.Sampler(VOCAB, 1, 10, device="cuda", backend=name)
    sampler.add(SamplingParams(seed=1, repetition_penalty=1.1), [1, 2, 3, 4, 5])
    logits = normal(1, VOCAB).to("cuda")
    sampler.step(logits)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        out = sampler.step(logits)
    for _ in range(20):
        graph.replay()
    assert len(sampler.history(0)) == 10
    for last in (out, sampler.step(logits)):
        assert last.token_ids[0] == -1 and last.status[0] == pld.HISTORY_FULL


def test_a_step_neither_allocates_nor_waits(name):
    sampler, _ = pair(name)
    logits = normal(4, VOCAB).to("cuda")
    sampler.step(logits)
    torch.cuda.synchronize()
    before = torch.cuda.memory_stats()["allocation.all.allocated"]
    torch.cuda.set_sync_debug_mode("error")
    try:
        for _ in range(20):
            sampler.step(logits)
    finally:
        torch.cuda.set_sync_debug_mode("default")
    assert torch.cuda.memory_stats()["allocation.all.allocated"] == before


def test_two_streams_at_once(name):
    samplers = [pair(name) for _ in range(2)]
    logits = [normal(4, VOCAB, seed=turn).to("cuda") for turn in range(10)]
    streams = [torch.cuda.Stream() for _ in samplers]
    torch.cuda.synchronize()
    for one in logits:
        for stream, (sampler, _) in zip(streams, samplers):
            with torch.cuda.stream(stream):
                sampler.step(one)
    torch.cuda.synchronize()
    for one in logits:
        samplers[0][1].step(one.cpu())
    for sampler, _ in samplers:
        for slot in range(4):
            assert_equal(sampler.history(slot).cpu(), samplers[0][1].history(slot), f"history of slot {slot}")


def test_more_than_two_to_the_31_elements(name):
    """9 GB of logits: the last rows are where 32-bit offsets would wrap."""
    vocab, rows = 128_256, 2**31 // 128_256 + 3
    if torch.cuda.mem_get_info()[0] < 24 * 2**30:
        pytest.skip("this GPU has less than 24 GB free")
    logits = torch.zeros(rows, vocab, dtype=torch.bfloat16, device="cuda")
    logits[-3:] = normal(3, vocab).bfloat16().to("cuda")
    params = SamplingParams(top_k=50, top_p=0.9, seed=5)
    expected = pld.sample(logits[-3:].cpu(), params, positions=[7] * 3)
    sampled = pld.sample(logits[-2000:], params, positions=[7] * 2000, backend=name)
    assert_equal(sampled.token_ids[-3:].cpu(), expected.token_ids, "some rows")
    out = pld.sample(logits, params, positions=[7] * rows, backend=name)
    assert_equal(out.token_ids[-3:].cpu(), expected.token_ids, "token_ids")
    assert_equal(out.kept[-3:].cpu(), expected.kept, "kept")

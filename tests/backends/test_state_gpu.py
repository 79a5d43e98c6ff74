"""What a sampler on a GPU waits for and what it keeps: the state is real, the streams are pretended."""

import contextlib
import gc
import weakref

import pytest
import torch
from cases import normal
from interpreter import GPU

import pyllmdecode as pld
from pyllmdecode import SamplingParams
from pyllmdecode.backends import state_gpu

VOCAB = 50


class Device:
    """The current stream, whether it is captured, and how often somebody has waited for everything."""

    def __init__(self, monkeypatch):
        self.stream, self.capturing, self.waits = 1, False, 0
        monkeypatch.setattr(state_gpu, "current_stream", lambda device: self.stream)
        monkeypatch.setattr(state_gpu, "is_capturing", lambda device: self.capturing)
        monkeypatch.setattr(state_gpu, "wait_for", self.wait)

    def wait(self, device):
        self.waits += 1

    def waited(self) -> int:
        self.waits, before = 0, self.waits
        return before


@pytest.fixture
def device(monkeypatch):
    if GPU:
        pytest.skip("the streams of a GPU are real: test_gpu.py")
    if not pld.backends()["cuda"]:
        pytest.skip(pld.backends()["cuda"].reason)
    return Device(monkeypatch)


def sampler_of(rows, **options):
    sampler = pld.Sampler(VOCAB, 4, 20, backend="cuda", **options)
    for _ in range(rows):
        sampler.add(SamplingParams(seed=1, repetition_penalty=1.1), [1, 2])
    return sampler


def test_nothing_waits_on_one_stream(device):
    sampler = sampler_of(2)
    sampler.step(normal(2, VOCAB))
    sampler.fork(0)
    sampler.history(1)
    sampler.remove(1)
    assert device.waited() == 0


def test_a_step_on_another_stream_waits_once(device):
    sampler = sampler_of(1)
    device.stream = 2
    sampler.step(normal(1, VOCAB))
    assert device.waited() == 1
    sampler.step(normal(1, VOCAB))
    assert device.waited() == 0


@pytest.mark.parametrize("what", ["stream", "capture"])
def test_what_steps_read_is_changed_when_none_is_running(device, what, monkeypatch):
    """Before the table is written, and before what a request had is freed."""
    sampler = sampler_of(2)
    if what == "stream":
        device.stream = 2
        sampler.step(normal(2, VOCAB))
    else:
        device.capturing = True
        sampler.step(normal(2, VOCAB))
        device.capturing = False
    device.waited()
    state, idle = sampler._state, sampler._state.idle
    events = []
    tokens = weakref.ref(state.requests[0][0].tokens, lambda _: events.append("freed"))

    def wait(device):
        events.append("waited, written" if torch.equal(state.table[0], idle) else "waited")

    monkeypatch.setattr(state_gpu, "wait_for", wait)
    sampler.remove(0)
    gc.collect()
    assert tokens() is None and events == ["waited", "waited, written", "freed"]
    for call in (lambda: sampler.add(SamplingParams(), [3]), lambda: sampler.history(1)):
        events.clear()
        call()
        assert events


def test_a_capture_does_not_wait(device):
    sampler = sampler_of(1)
    device.stream, device.capturing = 2, True
    sampler.step(normal(1, VOCAB))
    assert device.waited() == 0


def test_outputs_that_a_graph_writes_stay(device):
    sampler = sampler_of(2, reuse_outputs=True)
    device.capturing = True
    captured = sampler.step(normal(2, VOCAB)).token_ids.data_ptr()
    device.capturing = False
    for _ in range(3):  # of another number of rows, which need memory of their own
        assert sampler.step(normal(1, VOCAB), [0]).token_ids.data_ptr() != captured
    assert [outputs.address for _, outputs in sampler._state.captured] == [captured]


def test_capturing_is_asked_of_the_samplers_own_device(monkeypatch):
    asked = []

    @contextlib.contextmanager
    def current(device):
        asked.append(device)
        yield
        asked.append(None)

    monkeypatch.setattr(torch.cuda, "device", current)
    monkeypatch.setattr(torch.cuda, "is_current_stream_capturing", lambda: asked[-1] == torch.device("cuda", 1))
    assert state_gpu.is_capturing(torch.device("cuda", 1)) and not state_gpu.is_capturing(torch.device("cuda", 0))
    assert not state_gpu.is_capturing(torch.device("cpu"))

"""Threads, forks, interrupts, copies, and memory and threads that run out: what a process can do to a sampler."""

import copy
import itertools
import multiprocessing
import os
import pickle
import signal
import subprocess
import sys
import threading

import pytest
import torch
from cases import assert_equal, normal

import pyllmdecode as pld
from pyllmdecode import SamplingParams

V = 300
FULL = SamplingParams(top_p=0.9, repetition_penalty=1.2, no_repeat_ngram_size=2, frequency_penalty=0.1, seed=5)


def test_threads_share_a_sampler(backend):
    """Steps, and requests that come and go, from several threads: every history is one of its own making."""
    sampler, stop, failed = backend.sampler(V, 4, 4000), threading.Event(), []
    logits = backend.move(normal(2, V))
    fixed = [sampler.add(SamplingParams(seed=1), [1]), sampler.add(SamplingParams(seed=2), [2, 2])]

    def repeat(work):
        try:
            while not stop.is_set():
                work()
        except Exception as error:
            failed.append(error)

    def come_and_go():
        slot = sampler.add(FULL, [3, 4])
        sampler.history(slot)
        sampler.fork(fixed[0])
        for other in sampler.slots:
            if other not in fixed:
                sampler.remove(other)

    works = [lambda: sampler.step(logits, fixed)] * 2 + [come_and_go]
    workers = [threading.Thread(target=repeat, args=(work,)) for work in works]
    for worker in workers:
        worker.start()
    stop.wait(1.5)
    stop.set()
    for worker in workers:
        worker.join()
    assert not failed
    alone = backend.sampler(V, 2, 4000)
    alone.add(SamplingParams(seed=1), [1])
    alone.add(SamplingParams(seed=2), [2, 2])
    for _ in range(min(len(sampler.history(fixed[0])) - 1, 40)):
        alone.step(logits)
    for slot in (0, 1):
        known = alone.history(slot)
        assert_equal(sampler.history(fixed[slot])[: len(known)], known, "history")


def test_a_fork_while_a_thread_steps(native):
    """The child finds the lock free, whoever held it."""
    sampler, logits, stop = native.sampler(V, 2, 100_000), normal(2, V), threading.Event()
    for seed in (1, 2):
        sampler.add(SamplingParams(seed=seed), [1])

    def work():
        while not stop.is_set():
            sampler.step(logits)

    worker = threading.Thread(target=work)
    worker.start()
    try:
        for _ in range(10):
            child = os.fork()
            if child == 0:
                signal.alarm(20)
                sampler.step(logits)
                os._exit(0)
            assert os.waitpid(child, 0)[1] == 0
    finally:
        stop.set()
        worker.join()


class Interrupted(BaseException):
    pass


def test_interrupts_leave_before_or_after(backend):
    """An exception at every line of add, fork and remove: the slots are as before or as after, and go on."""
    if backend.interpreted:
        pytest.skip("interrupts what the interpreter runs, which is none of ours")
    logits = backend.move(normal(2, V))

    def interrupt_at(count):
        lines = itertools.count()

        def trace(frame, event, argument):
            if "pyllmdecode" not in frame.f_code.co_filename:
                return None
            if event == "line" and next(lines) == count:
                sys.settrace(None)
                raise Interrupted
            return trace

        return trace

    for call in ("add", "fork", "remove"):
        for count in itertools.count():
            sampler = backend.sampler(V, 3, 30)
            for seed in (1, 2):
                sampler.add(SamplingParams(seed=seed, repetition_penalty=1.2), [seed, 3])
            arguments = {"add": (FULL, [5, 6]), "fork": (0,), "remove": (1,)}[call]
            try:
                sys.settrace(interrupt_at(count))
                getattr(sampler, call)(*arguments)
                finished = True
            except Interrupted:
                finished = False
            finally:
                sys.settrace(None)
            after = {"add": (0, 1, 2), "fork": (0, 1, 2), "remove": (0,)}[call]
            assert sampler.slots in ((0, 1), after)
            assert not finished or sampler.slots == after
            assert sampler.history(0).tolist() == [1, 3]
            if len(sampler.slots) < 3:
                sampler.add(SamplingParams(seed=7), [9])
            rows = sampler.slots[:2]
            assert (sampler.step(logits, rows).token_ids >= 0).all()
            if finished:
                break
        assert count > 5


def test_copies_go_on_as_the_original(backend):
    sampler = backend.sampler(V, 3, 40)
    for slot, one in enumerate((FULL, SamplingParams(temperature=2.0), SamplingParams(presence_penalty=0.5))):
        sampler.add(one, [1, 2, V + 5][: slot + 1], prompt_length=slot)
    sampler.remove(1)
    for turn in range(3):
        sampler.step(backend.move(normal(2, V, seed=turn)))
    copies = [copy.copy(sampler), copy.deepcopy(sampler), pickle.loads(pickle.dumps(sampler))]
    back = backend.sampler(V, 2, 40)  # as an engine brings requests back
    for slot in sampler.slots:
        back.add(sampler.params(slot), sampler.history(slot), prompt_length=slot)
    for turn in range(3, 6):
        logits = backend.move(normal(2, V, seed=turn))
        expected = sampler.step(logits)
        for one in [*copies, back]:
            assert_equal(one.step(logits).token_ids, expected.token_ids, "token_ids")
    for one in [*copies, back]:
        for slot, other in zip(sampler.slots, one.slots):
            assert torch.equal(one.history(other), sampler.history(slot))
    with pytest.raises(ValueError, match="prompt_length: got 3; accepted: an integer from 0 to 2"):
        backend.sampler(V, 1, 9).add(FULL, [1, 2], prompt_length=3)


def _fail_in_a_worker(_):
    pld.sample(torch.full((2, 5), torch.nan), SamplingParams(), check=True)


def test_errors_reach_other_processes():
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        with pytest.raises(pld.RowError, match="row 1: NAN_LOGITS") as caught:
            pool.map_async(_fail_in_a_worker, [0]).get(timeout=100)
    assert caught.value.rows.keys() == {0, 1} and len(caught.value.output.status) == 2


def test_devices_by_number():
    sampler = pld.Sampler(V, 1, 9, device="cpu:0")
    sampler.add(FULL, [1])
    assert sampler.step(normal(1, V)).token_ids[0] >= 0


def run(code: str, **environment) -> str:
    variables = {**os.environb, **{os.fsencode(name): value for name, value in environment.items()}}
    done = subprocess.run([sys.executable, "-c", code], env=variables, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr[-2000:]
    return done.stdout


def test_a_variable_that_is_no_text():
    out = run("import pyllmdecode as pld; print(pld.backends()['cpu'])", PYLLMDECODE_ISA=b"avx\xff\xfe")
    assert "got 'avx??'" in out


def test_no_more_threads_to_be_had():
    """The caller works alone, and draws what it would draw with others."""
    out = run(
        "import resource, torch, pyllmdecode as pld\n"
        "x = 3 * torch.randn(64, 5000)\n"
        "params = pld.SamplingParams(top_p=0.9, seed=1)\n"
        "torch.set_num_threads(1)\n"
        "alone = pld.sample(x, params).token_ids\n"
        "import threading, time\n"
        "used = int(open('/proc/self/statm').read().split()[0]) * resource.getpagesize()\n"
        "resource.setrlimit(resource.RLIMIT_AS, (used + 2**21, -1))\n"  # a thread's stack is larger
        "torch.set_num_threads(8)\n"
        "print(torch.equal(pld.sample(x, params).token_ids, alone))"
    )
    assert out.split() == ["True"]


def test_memory_that_runs_out():
    """Inside a step: MemoryError, and no history has changed; afterwards steps go on."""
    out = run(
        "import resource, torch, pyllmdecode as pld\n"
        "torch.set_num_threads(1)\n"
        "V = 2**22\n"
        "x = torch.randn(2, V)\n"
        "s = pld.Sampler(V, 2, 50)\n"
        "for seed in (1, 2): s.add(pld.SamplingParams(top_p=0.9, seed=seed), [seed])\n"
        "used = int(open('/proc/self/statm').read().split()[0]) * resource.getpagesize()\n"
        "resource.setrlimit(resource.RLIMIT_AS, (used + 2**26, -1))\n"
        "try: s.step(x); print('no error')\n"
        "except MemoryError: print('MemoryError', s.history(0).tolist(), s.history(1).tolist())\n"
        "resource.setrlimit(resource.RLIMIT_AS, (-1, -1))\n"
        "s.step(x); print(len(s.history(0)), len(s.history(1)))"
    )
    assert out.splitlines() == ["MemoryError [1] [2]", "2 2"]


def test_logits_that_change_meanwhile(native):
    """Another thread writes to them: any token or none, and no crash."""
    logits, stop = normal(1, 50_000), threading.Event()

    def scribble():
        generator = torch.Generator().manual_seed(1)
        while not stop.is_set():
            logits.mul_(-1.0).add_(torch.rand(1, generator=generator) - 0.5)

    writer = threading.Thread(target=scribble)
    writer.start()
    try:
        for turn in range(300):
            options = [{"top_p": 0.9}, {"temperature": 1.0}, {"top_k": 50}, {"temperature": 0.0}][turn % 4]
            out = native.sample(logits, SamplingParams(seed=turn, **options), logprobs="processed", top_logprobs=3)
            assert -1 <= out.token_ids[0] < 50_000
    finally:
        stop.set()
        writer.join()

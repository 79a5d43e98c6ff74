"""Steps on a GPU that is only pretended: which kernels get compiled, and when. Prints JSON.

The real host code, the real compiler and Triton's real caches; only the driver below launches nothing. A program of
its own, as the tests around it run Triton in its interpreter.
"""

import contextlib
import json
import os
import time
import types

os.environ["TRITON_INTERPRET"] = "0"

import torch
from triton.backends.compiler import GPUTarget
from triton.runtime import driver

import pyllmdecode as pld
from pyllmdecode import SamplingParams
from pyllmdecode.backends import state_gpu, triton_launch
from pyllmdecode.backends import triton as host

VOCAB, BATCH, LENGTH = 10_000, 100, 4096
KERNELS = (host.edits, host.scan, host.decide, host.masses, host.conclude, host.advance, host.raw_logprobs)
KERNELS += (host.process_logits_kernel,)
launched = []


class Launcher:
    def __init__(self, source, metadata):
        self.name = metadata.name

    def __call__(self, gridX, gridY, gridZ, stream, function, *args):
        launched.append((self.name, gridX))


class Driver:
    launcher_cls = Launcher
    binary_ext = "cubin"
    target = GPUTarget("cuda", 90, 32)

    def __init__(self):
        self.utils = types.SimpleNamespace(
            load_binary=lambda *_: (None, None, 0, 0, 1024),
            unload_module=lambda *_: None,
            get_device_properties=lambda _: {"max_shared_mem": 232_448},
        )

    def get_current_device(self):
        return 0

    def get_current_stream(self, device):
        return 0

    def get_current_target(self):
        return self.target


def compiled() -> int:
    """Variants in Triton's own caches."""
    return sum(len(cache[0]) for kernel in KERNELS for cache in kernel.device_caches.values())


def pretend(kind=Driver):
    driver.set_active(kind())
    for kernel in KERNELS:
        kernel.device_caches.clear()  # of the GPU that was pretended before
    device = torch.device("cpu")
    triton_launch._launchers[device] = triton_launch._on_device(device)
    host.INTERPRETED, host.DEVICE_TYPE = True, "cpu"  # tensors are on the CPU
    state_gpu.is_capturing = lambda device: False
    torch.cuda.current_device = lambda: None  # the index of torch.device("cpu")
    torch.cuda.device = lambda device: contextlib.nullcontext()
    torch._C._cuda_getCurrentRawStream = lambda index: 0


def capture(rows: int) -> tuple[int, int]:
    """Of a sampler that has not been warmed up, all of whose requests have top-k: a step, and the same in a capture."""
    sampler = pld.Sampler(VOCAB, rows, LENGTH, backend="triton")
    for _ in range(rows):
        sampler.add(SamplingParams(top_k=50), [1, 2, 3])
    logits = torch.zeros(rows, VOCAB, dtype=torch.float16)
    sampler.step(logits)
    after_step, state_gpu.is_capturing = compiled(), lambda device: True
    launched.clear()
    sampler.step(logits)
    assert "masses" in {name for name, _ in launched}
    state_gpu.is_capturing = lambda device: False
    return after_step, compiled()


def main():
    pretend()
    sampler = pld.Sampler(VOCAB, BATCH, LENGTH, backend="triton")
    sampler.warm_up(torch.bfloat16)
    after_warm_up = compiled()
    requests = [
        SamplingParams(top_k=50, top_p=0.95, repetition_penalty=1.2, no_repeat_ngram_size=3),
        SamplingParams(top_p=0.9, logit_bias={3: 1.0}, bad_words_ids=[[1], [2, 3]]),
        SamplingParams(temperature=0.0),
        SamplingParams(min_p=0.1, frequency_penalty=0.5, allowed_token_ids=range(100)),
    ]
    for row in range(BATCH):
        sampler.add(requests[row % 4], list(range(row)))
    memory = torch.zeros(BATCH * (VOCAB + 24), dtype=torch.bfloat16)
    for rows in (1, 2, 7, 16, 33, BATCH):
        for stride in (VOCAB, VOCAB + 1, VOCAB + 8, VOCAB + 16):
            for offset in (0, 1, 8):
                logits = memory.as_strided((rows, VOCAB), (stride, 1), offset)
                sampler.step(logits, range(rows))
                sampler.step(logits, range(rows), uniforms=[5] * rows)
    for rows in (1, 2, 3, BATCH):  # whose log-probabilities begin at 16 bytes or not
        for offset in (0, 1):
            logits = memory.as_strided((rows, VOCAB), (VOCAB + 8, 1), offset)
            for logprobs in ("raw", "processed"):
                for top in (0, 2):
                    sampler.step(logits, range(rows), logprobs=logprobs, top_logprobs=top)
            pld.process_logits(logits, requests[0], backend="triton")
    after_steps = compiled()
    seen = sorted({name for name, _ in launched})

    sampler.step(torch.zeros(BATCH, VOCAB))  # another type has to be compiled: the count does count
    other_type = compiled()

    captured = [capture(rows) for rows in (1, BATCH)]

    logits = memory[: BATCH * VOCAB].view(BATCH, VOCAB)
    times = []
    for _ in range(20):
        begin = time.perf_counter()
        sampler.step(logits)
        times.append(time.perf_counter() - begin)
    print(
        json.dumps(
            {
                "after warm_up": after_warm_up,
                "after steps": after_steps,
                "after another type": other_type,
                "after steps and after capturing them": captured,
                "launched": seen,
                "microseconds of Python per step, launches apart": round(sorted(times)[10] * 1e6, 1),
            }
        )
    )


if __name__ == "__main__":
    main()

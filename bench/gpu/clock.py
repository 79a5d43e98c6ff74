"""Where a GPU benchmark runs: memory full of logits, sequences of calls, and the clocks they are timed with.

`Gpu` captures a sequence of calls in a CUDA graph and times it between CUDA events. `Cpu` does the same with a loop and
the wall clock, for trying the benchmark where no GPU is.
"""

import platform
import re
import statistics
import subprocess
from time import perf_counter_ns

import torch
from torch import Tensor

MIB = 2**20


def summary(values: list[float]) -> dict:
    """What the results say of repeated measurements: figures from few rounds, so the extremes and no quartiles."""
    numbers = {"median": statistics.median(values), "min": min(values), "max": max(values)}
    return {name: float(f"{x:.5g}") for name, x in numbers.items()} | {"n": len(values)}


class Cpu:
    kind = "cpu"
    pool_bytes = 4 * MIB
    copy_bytes = 8 * MIB
    most_calls = 4  # in one sequence
    host_calls = 5  # in a row, for the time the host takes

    def __init__(self, device: str = "cpu"):
        self.device = torch.device(device)
        self.pools: dict[torch.dtype, Tensor] = {}
        self.flushing = torch.zeros(self.flush_bytes() // 4, dtype=torch.int32, device=self.device)

    def describe(self) -> dict:
        return {"gpu": "none (tried on the CPU)", "processor": platform.processor() or platform.machine()}

    def flush_bytes(self) -> int:
        return MIB

    def pieces(self, batch: int, vocab: int, dtype: torch.dtype) -> list[Tensor]:
        """Logits 3 * N(0, 1), as many tensors [batch, vocab] as a sequence has calls, none overlapping another."""
        size = -(-batch * vocab // 64) * 64  # where a tensor of its own would begin
        pool = self.pools.get(dtype)
        if pool is None or len(pool) < 2 * size:
            self.pools.pop(dtype, None)
            pool = torch.empty(max(2 * size, self.pool_bytes // dtype.itemsize), dtype=dtype, device=self.device)
            generator = torch.Generator(self.device).manual_seed(0)
            for part in pool.split(16 * MIB):
                part.copy_(3 * torch.randn(len(part), generator=generator, device=self.device))
            self.pools[dtype] = pool
        count = min(len(pool) // size, self.most_calls)
        return [pool[i * size : i * size + batch * vocab].view(batch, vocab) for i in range(count)]

    def flush(self) -> None:
        """Reads more than the caches hold, so that what is read next comes from memory."""
        self.flushing.amax()

    def synchronize(self) -> None:
        pass

    def capture(self, call, pieces: list[Tensor]):
        """-> (replay, what the last call returns); replay() makes the calls on all pieces."""
        last = [None]

        def replay():
            for piece in pieces:
                last[0] = call(piece, 0)

        replay()
        return replay, lambda: last[0]

    def time_sequence(self, sequence, captured: bool):
        """Runs it; -> a function that gives its time in ns once everything has been synchronized."""
        begin = perf_counter_ns()
        sequence()
        elapsed = perf_counter_ns() - begin
        return lambda: elapsed

    def bandwidth(self) -> dict:
        """Of a large copy within the device's memory, GB/s, bytes read and written."""
        source = torch.ones(self.copy_bytes // 4, dtype=torch.int32, device=self.device)
        target = torch.empty_like(source)
        copies, rates = 5, []
        for round_ in range(12):

            def several():
                for _ in range(copies):
                    target.copy_(source)

            elapsed = self.time_sequence(several, captured=True)
            self.synchronize()
            if round_ >= 2:  # warm
                rates.append(2 * self.copy_bytes * copies / elapsed())
        return {"bytes": self.copy_bytes, "gb_per_s": summary(rates)}


class Gpu(Cpu):
    kind = "cuda"
    most_calls = 64
    host_calls = 40  # the device's queue takes a thousand launches, and then makes the host wait

    def __init__(self):
        if not torch.cuda.is_available():
            raise SystemExit("torch finds no GPU; --device cpu tries the benchmark without one")
        self.properties = torch.cuda.get_device_properties(0)
        memory = torch.cuda.mem_get_info()[0]
        # Eight pieces of 512 * 128256 float32 logits, and room for what a sort of these needs beside them.
        self.pool_bytes = min(2200 * MIB, memory // 16)
        self.copy_bytes = min(2048 * MIB, memory // 16) // 16 * 16
        self.stream = torch.cuda.Stream()
        super().__init__(f"cuda:{torch.cuda.current_device()}")

    def flush_bytes(self) -> int:
        return 3 * self.l2_bytes()

    def l2_bytes(self) -> int:
        return getattr(self.properties, "L2_cache_size", 0) or 128 * MIB

    def describe(self) -> dict:
        p = self.properties
        return {
            "gpu": p.name,
            "driver": smi("driver_version"),
            "compute_capability": f"{p.major}.{p.minor}",
            "multiprocessors": p.multi_processor_count,
            "memory_bytes": p.total_memory,
            "l2_bytes": self.l2_bytes(),
            "clocks": smi("clocks.sm,clocks.mem"),
            "power_limit": smi("power.limit"),
        }

    def synchronize(self) -> None:
        torch.cuda.synchronize()

    def capture(self, call, pieces: list[Tensor]):
        """As above, as a CUDA graph. Raises what the call raises where it cannot be captured."""
        graph = torch.cuda.CUDAGraph()
        # By hand rather than by torch.cuda.graph(), which collects garbage and empties torch's cache every time.
        self.stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(self.stream):
            graph.capture_begin(capture_error_mode="thread_local")
            try:
                for piece in pieces:
                    last = call(piece, 0)
            except BaseException:
                try:
                    graph.capture_end()
                except RuntimeError:
                    pass  # it says that the capture failed, which is known
                raise
            graph.capture_end()
        torch.cuda.current_stream().wait_stream(self.stream)
        return graph.replay, lambda: last

    def time_sequence(self, sequence, captured: bool):
        begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        if not captured:  # otherwise the device, still busy, would hide the time the host takes
            self.synchronize()
        begin.record()
        sequence()
        end.record()
        return lambda: begin.elapsed_time(end) * 1e6


def smi(query: str) -> str:
    """What nvidia-smi says of the first GPU, or an empty string."""
    command = ["nvidia-smi", f"--query-gpu={query}", "--format=csv,noheader", "-i", "0"]
    try:
        return subprocess.run(command, capture_output=True, text=True, check=True, timeout=20).stdout.strip()
    except (OSError, subprocess.SubprocessError):
        return ""


def nvcc() -> str:
    try:
        text = subprocess.run(["nvcc", "--version"], capture_output=True, text=True, check=True, timeout=20).stdout
    except (OSError, subprocess.SubprocessError):
        return ""
    found = re.search(r"release (\S+),", text)
    return found[1] if found else ""

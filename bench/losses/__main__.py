"""Times the losses and their peak memory, forward and backward together, in one run.

    python -m bench.losses [--tokens 1024] [--memory-tokens 4096] [--rounds 5] [--threads 1]

Times: the least of some rounds in which the contenders take turns. Memory: each by itself in a process of its own (on a
GPU in this one), the peak above what stood before the call, inputs apart.
"""

import argparse
import subprocess
import sys
import time
from collections.abc import Callable

import torch

from .contenders import Inputs, of_hidden, of_logits

KINDS = {"logits": of_logits, "hidden": of_hidden}
BASE = "cross-entropy, torch"


def call(kind: str, inputs: Inputs, loss, logits=None):
    if kind == "hidden":
        value = loss(inputs.hidden, inputs.weight)
        value.backward()
        inputs.hidden.grad = inputs.weight.grad = None
    else:
        value = loss(logits)
        value.backward()
        logits.grad = None


def now(device: str, clock) -> float:
    if device != "cpu":
        torch.cuda.synchronize()
    return clock()


def times(kind: str, tokens: int, rounds: int, device: str, wanted: Callable[[str], bool]) -> dict[str, float]:
    inputs = Inputs(tokens, device)
    logits = inputs.made() if kind == "logits" else None
    # One thread's own time says the same on a busy machine as on a quiet one.
    clock = time.thread_time if device == "cpu" and torch.get_num_threads() == 1 else time.perf_counter
    contenders, best = {name: loss for name, loss in KINDS[kind](inputs).items() if wanted(name)}, {}
    for _ in range(rounds):
        for name, loss in contenders.items():
            begin = now(device, clock)
            call(kind, inputs, loss, logits)
            best[name] = min(best.get(name, 1e9), now(device, clock) - begin)
    return best


def peak(kind: str, name: str, tokens: int, device: str) -> int:
    """Bytes above the inputs, in this process."""
    inputs = Inputs(tokens, device)
    logits = inputs.made() if kind == "logits" else None
    loss = KINDS[kind](inputs)[name]
    if device != "cpu":
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        call(kind, inputs, loss, logits)
        return torch.cuda.max_memory_allocated() - before
    with open("/proc/self/clear_refs", "w") as file:
        file.write("5")  # the peak so far counts no longer
    before = _resident("VmRSS")
    call(kind, inputs, loss, logits)
    return _resident("VmHWM") - before


def _resident(name: str) -> int:
    """Bytes, of Linux' account of this process."""
    with open("/proc/self/status") as file:
        return next(int(line.split()[1]) * 1024 for line in file if line.startswith(name))


def memory(kind: str, names, tokens: int, device: str) -> dict[str, int]:
    if device != "cpu":
        return {name: peak(kind, name, tokens, device) for name in names}
    command = [sys.executable, "-m", "bench.losses", "--memory-tokens", str(tokens), "--peak", kind]
    return {name: int(subprocess.check_output([*command, name], text=True).split()[-1]) for name in names}


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m bench.losses")
    parser.add_argument("--tokens", type=int, default=1024)
    parser.add_argument("--memory-tokens", type=int, default=4096)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--kinds", nargs="+", choices=KINDS, default=list(KINDS))
    parser.add_argument("--only", nargs="+", metavar="NAME", help="these contenders, and cross-entropy")
    parser.add_argument(
        "--peak", nargs=2, metavar=("KIND", "NAME"), help="only the peak of one, for the program itself"
    )
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    if args.peak:
        print(peak(*args.peak, args.memory_tokens, device))
        return
    for kind in args.kinds:
        took = times(
            kind, args.tokens, args.rounds, device, lambda name: name == BASE or not args.only or name in args.only
        )
        held = memory(kind, took, args.memory_tokens, device) if args.memory_tokens else dict.fromkeys(took, 0)
        print(f"\n| of {kind} | ms, {args.tokens} tokens | of cross-entropy | peak MiB, {args.memory_tokens} tokens |")
        print("| --- | --: | --: | --: |")
        for name, seconds in took.items():
            share = seconds / took[BASE]
            print(f"| {name} | {seconds * 1e3:.0f} | {share:.2f} | {held[name] / 2**20:.0f} |", flush=True)


if __name__ == "__main__":
    main()

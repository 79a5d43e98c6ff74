"""Bytes that a step reads from the GPU's memory beside the logits', by Nsight Compute's counters.

    python -m bench.gpu.bytes --out build/gpu      (where ncu is in PATH or in /usr/local/cuda/bin)

B = 256 rows of V = 128256 in bfloat16, history 512. Writes <out>/<name of the GPU>-bytes.json, which make report
reads from bench/results; exits with 1 where the CUDA backend reads more than 1.1 times the logits, with 2 where nothing
could be counted.
"""

import argparse
import csv
import io
import json
import shutil
import subprocess
import sys
from pathlib import Path

import torch

import pyllmdecode
from pyllmdecode import SamplingParams

from .. import machine

BATCH, VOCAB, HISTORY, STEPS = 256, 128_256, 512, 3
METRIC = "dram__bytes_read.sum"
MOST = {"cuda": 1.1}  # times the logits
COMMON = {"temperature": 0.8, "repetition_penalty": 1.2, "no_repeat_ngram_size": 3, "seed": 1}
CASES = {
    "topk-topp": SamplingParams(top_k=50, top_p=0.95, **COMMON),
    "topp": SamplingParams(top_p=0.95, temperature=0.8, seed=1),
}


def run(backend: str, case: str, batch: int) -> None:
    """Some steps, of which only the last ones are counted: the profiler looks between start and stop."""
    generator = torch.Generator("cuda").manual_seed(0)
    logits = (3 * torch.randn(batch, VOCAB, device="cuda", generator=generator)).bfloat16()
    sampler = pyllmdecode.Sampler(VOCAB, batch, HISTORY + 2 * STEPS, device=logits.device, backend=backend)
    for row in torch.randint(VOCAB, (batch, HISTORY)).tolist():
        sampler.add(CASES[case], row)
    for _ in range(STEPS):
        sampler.step(logits)
    torch.cuda.synchronize()
    torch.cuda.profiler.start()
    for _ in range(STEPS):
        sampler.step(logits)
    torch.cuda.synchronize()
    torch.cuda.profiler.stop()


def counted(ncu: str, backend: str, case: str) -> float:
    """Bytes per step. ncu empties the caches before every kernel, so what a later kernel reads again counts again."""
    command = [ncu, "--metrics", METRIC, "--csv", "--page", "raw", "--print-units", "base"]
    command += ["--profile-from-start", "off", "--clock-control", "none"]
    command += [sys.executable, "-m", "bench.gpu.bytes", "--run", backend, case]
    done = subprocess.run(command, capture_output=True, text=True)
    lines = [line for line in done.stdout.splitlines() if line.startswith('"')]
    rows = list(csv.DictReader(io.StringIO("\n".join(lines))))
    values = [row[METRIC].replace(",", "") for row in rows if row.get(METRIC)]
    read = [float(value) for value in values if value.replace(".", "", 1).isdigit()]  # not the line of units
    if not read:
        raise RuntimeError(f"ncu counted nothing: {(done.stdout + done.stderr)[-500:]}")
    return sum(read) / STEPS


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, default=Path("build/gpu"))
    parser.add_argument("--run", nargs=2, metavar=("BACKEND", "CASE"), help="the steps themselves, under ncu")
    parser.add_argument("--batch", type=int, default=BATCH, help="rows of these steps (default: %(default)s)")
    arguments = parser.parse_args()
    if arguments.run:
        run(*arguments.run, arguments.batch)
        return 0
    ncu = shutil.which("ncu") or shutil.which("ncu", path="/usr/local/cuda/bin")
    if ncu is None:
        print("ncu is missing")
        return 2
    logits = BATCH * VOCAB * 2
    results, failed = [], False
    for backend in [name for name in ("cuda", "triton") if pyllmdecode.backends()[name]]:
        for case in CASES:
            try:
                ratio = counted(ncu, backend, case) / logits
            except RuntimeError as error:
                print(f"{backend}, {case}: {error}")
                failed |= backend in MOST
                continue
            over = ratio > MOST.get(backend, float("inf"))
            failed |= over
            results.append({"backend": backend, "case": case, "bytes_read_per_byte_of_logits": ratio})
            print(f"{backend}, {case}: reads {ratio:.3f} times the logits{', too much' * over}", flush=True)
    if results:
        gpu = torch.cuda.get_device_name()
        written = {"gpu": gpu, "batch": BATCH, "vocab": VOCAB, "commit": machine.commit(), "results": results}
        arguments.out.mkdir(parents=True, exist_ok=True)
        (arguments.out / f"{machine.slug(gpu)}-bytes.json").write_text(json.dumps(written, indent=1) + "\n")
    return 1 if failed else 0 if results else 2


if __name__ == "__main__":
    sys.exit(main())

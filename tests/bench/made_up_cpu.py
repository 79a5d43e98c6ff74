"""Results of a CPU as a run writes them: those in the tree, with what later runs have beside them."""

import json
from pathlib import Path

WRITTEN = sorted((Path(__file__).parent.parent.parent / "bench" / "results").glob("*cores*.json"))


def results() -> dict:
    written = json.loads(WRITTEN[0].read_text())
    one = {"median": 2.0, "p5": 1.9, "p95": 2.2, "n": 9}
    point = {"point": "topp B=1 threads=1", "params": "topp", "batch": 1, "threads": 1, "vocab": 49152, "prompt": 64}
    both = {"step": one, "transformers": one | {"median": 30.0}}
    point |= {"model": one | {"median": 40000.0}, "times": both, "tokens_per_second": both, "shares": both}
    point |= {"left_out": {"torch": "wrong: another token"}}
    size = {"name": "cpu", "how": "measured", "bytes": {"512": 6000, "131072": 1200000}}
    written["decode"] = {"model": "Made-up", "rows": [point], "left_out": {}}
    written["state"] = {"vocab": 128256, "room": 131073, "rows": [size], "left_out": {}}
    return written

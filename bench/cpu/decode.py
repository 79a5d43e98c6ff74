"""Decoding with a real model: tokens per second, and the share of each step that goes to choosing the tokens."""

import random
from dataclasses import dataclass, field
from time import perf_counter_ns

import torch
from torch import Tensor

from .. import cases, machine
from ..cases import PARAMS, Case
from ..interface import Contender, NotHere
from .contenders import REGISTRY
from .figures import summary
from .verify import check

NAMES = ("step", "transformers", "torch", "torch-topk")  # `step` chooses the token that the text goes on with
PROMPT = 64  # tokens, the last ones of the trace's histories
STEPS, WARM_UP = 32, 3
# Parameters, rows, threads.
POINTS = (("topp", 1, 1), ("topk-topp", 1, 1), ("topp", 8, 1), ("topk-topp", 8, 1), ("topp", 1, 2), ("topp", 8, 2))


@dataclass(frozen=True)
class Text(Case):
    ids: Tensor = field(default=None, repr=False, compare=False)  # int64 [batch, length]

    def histories(self) -> list[Tensor]:
        return [self.ids]


def run(tick) -> dict:
    """-> {"rows": [...]}, or {"rows": [], "left_out": {"model": why}} where there is no model."""
    try:
        from pyllmdecode.cli.models import load_quietly

        model, _ = load_quietly()
    except (ImportError, FileNotFoundError) as why:
        return {"rows": [], "left_out": {"SmolLM2": str(why)}}
    points = [point for point in POINTS if point[2] <= machine.cores()]
    rows = []
    try:
        for number, (params, batch, threads) in enumerate(points):
            with torch.inference_mode():
                rows.append(one(model, params, batch, threads, lambda s, n=number: tick((n + s) / len(points))))
    finally:
        torch.set_num_threads(1)
    return {"model": "SmolLM2-135M-Instruct, float32", "rows": rows, "left_out": {}}


def prompts(batch: int) -> Tensor:
    """int64 [batch, PROMPT]"""
    long = [ids[0, -PROMPT:] for ids in cases.trace()[1] if ids.shape[1] >= PROMPT]
    return torch.stack(long[:batch])


def one(model, params: str, batch: int, threads: int, tick) -> dict:
    """Times the model's steps, and after each of them, in an order shuffled anew, the contenders on its logits."""
    torch.set_num_threads(threads)
    ids, order = prompts(batch), random.Random(0)
    out = model(ids, use_cache=True)
    logits, cache = out.logits[:, -1].contiguous(), out.past_key_values
    name = f"{params} B={batch} threads={threads}"
    case = Text(name, PARAMS[params], vocab=logits.shape[1], batch=batch, history=PROMPT, threads=threads, ids=ids)
    contenders, left_out = ready(case, logits)
    times: dict[str, list[int]] = {name: [] for name in ("model", *contenders)}
    for step in range(WARM_UP + STEPS):
        shuffled = list(contenders)
        order.shuffle(shuffled)
        for contender in shuffled:
            here = contenders[contender]
            here.histories[0] = ids
            here.before(logits, 0)
            begin = perf_counter_ns()
            found = here.call(logits, 0).tolist()
            times[contender].append(perf_counter_ns() - begin)
            if contender == "step":
                tokens = torch.tensor(found)[:, None]
        ids = torch.cat([ids, tokens], 1)
        begin = perf_counter_ns()
        logits = model(tokens, past_key_values=cache, use_cache=True).logits[:, -1].contiguous()
        times["model"].append(perf_counter_ns() - begin)
        tick((step + 1) / (WARM_UP + STEPS))
    return row(case, params, {name: found[WARM_UP:] for name, found in times.items()}, left_out)


def ready(case: Text, logits: Tensor) -> tuple[dict[str, Contender], dict[str, str]]:
    """Those who find on the first logits what they should; and why the others do not."""
    made, left_out = {}, {}
    for name in NAMES:
        if name == "torch-topk" and case.params.top_k <= 0:
            continue
        try:
            made[name] = REGISTRY[name](case)
        except NotHere as why:
            left_out[name] = str(why)
    left_out |= check(case, made, logits, 0)
    made = {name: contender for name, contender in made.items() if name not in left_out}
    made["step"] = REGISTRY["step"](case)  # the check has drawn a token
    return made, left_out


def row(case: Text, params: str, times: dict[str, list[int]], left_out: dict[str, str]) -> dict:
    model = times.pop("model")
    both = {name: [m + own for m, own in zip(model, found)] for name, found in times.items()}
    return {
        "point": case.name,
        "params": params,
        "batch": case.batch,
        "threads": case.threads,
        "vocab": case.vocab,
        "prompt": PROMPT,
        # µs, tokens per second, per cent.
        "model": summary([ns / 1e3 for ns in model]),
        "times": {name: summary([ns / 1e3 for ns in found]) for name, found in times.items()},
        "tokens_per_second": {name: summary([1e9 * case.batch / ns for ns in found]) for name, found in both.items()},
        "shares": {name: summary([100 * a / b for a, b in zip(times[name], found)]) for name, found in both.items()},
        "left_out": left_out,
    }

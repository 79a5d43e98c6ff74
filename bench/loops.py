"""What ends a loop, and what it costs: forty prompts, SmolLM2-135M-Instruct, penalties, bans and policies.

    python -m bench.loops [--tokens 200] [--methods plain regenerate ...] [--out bench/loops.json]
    python -m bench.loops --report bench/loops.json      # the tables, and the picture beside docs/repetition.md

A text "ends in a loop" where `repetition.detect` says so of its last token, for blocks of 4 to 64 tokens three times in
a row: what a reader would call one. Fluency is the mean log-probability of the text's tokens under the model as it is,
at temperature 1 and without penalties; also of the tokens that are new (end no 4-gram that the text had before), as a
model finds its own loops very probable.
"""

import argparse
import dataclasses
import json
import time
from pathlib import Path

import torch

import pyllmdecode as pld
from pyllmdecode import SamplingParams, metrics, policies, repetition

PROMPTS = """\
The history of the city of London begins
It was a dark and stormy night, and
In the year 2050,
The most important thing about cooking rice is
My grandmother used to tell me that
Once upon a time, there was a little
The three laws of thermodynamics are
To build a wooden table, you first need
The meaning of life is
Dear Sir or Madam,
The capital of France is
Python is a programming language that
The best way to learn a new language is
Scientists have recently discovered that
When I woke up this morning,
The president announced today that
A list of things to do in summer:
The difference between cats and dogs is
The old man looked at the sea and
In this paper, we propose
The recipe for chocolate cake is
Water boils at 100 degrees because
The company reported earnings of
She opened the door and saw
There are many reasons why people
The first rule of the club is
How to write a good essay:
The moon landing in 1969 was
He could not believe what
The human brain consists of
Exercise is good for you because
The train to Berlin leaves at
Music has always been
If I had a million dollars, I would
The internet was invented by
A good leader should
The weather forecast for tomorrow:
Mathematics is the study of
After the war, the country
Question: Why is the sky blue? Answer:""".split("\n")

LOOP = pld.RepetitionDetection(64, min_pattern_size=4, min_count=3)
PARAMS = {
    "plain": {},
    "repetition 1.1": {"repetition_penalty": 1.1},
    "repetition 1.3": {"repetition_penalty": 1.3},
    "frequency 0.5": {"frequency_penalty": 0.5},
    "no 3-gram again": {"no_repeat_ngram_size": 3},
    "no 5-gram again": {"no_repeat_ngram_size": 5},
    "DRY 0.8": {"dry_multiplier": 0.8},
}
POLICIES = ("stop", "regenerate", "escape", "resample")
FIELDS = {field.name for field in dataclasses.fields(SamplingParams)}


def policy(name: str, tokenizer) -> pld.LoopPolicy | None:
    respond = {
        "stop": policies.stop,
        "regenerate": policies.regenerate(),
        "escape": policies.escape(tokenizer("\n\nIn short,", add_special_tokens=False)["input_ids"]),
        "resample": policies.resample(),
    }.get(name)
    return respond and pld.LoopPolicy(respond)


def measure(model, tokenizer, name: str, temperature: float, tokens: int) -> dict:
    from pyllmdecode.cli.generate import generate

    given = PARAMS.get(name, {})
    params = [
        SamplingParams(temperature=temperature, seed=seed, logprobs="raw", **given) for seed in range(len(PROMPTS))
    ]
    begin, drawn, said = time.perf_counter(), [], [[] for _ in PROMPTS]

    def step(rows: list[int], output: pld.SampleOutput) -> None:
        drawn.append(len(rows))
        for row, value in zip(rows, output.logprobs.tolist()):
            said[row].append(value)

    def rewind(row: int, n: int) -> None:
        del said[row][len(said[row]) - n :]

    made = generate(
        model,
        tokenizer,
        PROMPTS,
        params,
        max_new_tokens=tokens,
        policy=policy(name, tokenizer),
        on_step=step,
        on_rewind=rewind,
    )
    texts = made.token_ids
    found = [repetition.detect(ids, LOOP) for ids in texts]
    both = [fluency(ids, values) for ids, values in zip(texts, said)]
    return {
        "method": name,
        "temperature": temperature,
        "end in a loop": mean(bool(len(ids) and one.loop[-1]) for ids, one in zip(texts, found)),
        "had a loop": mean(one.first is not None for one in found),
        "seq-rep-4": metrics.seq_rep_n(texts, 4),
        "diversity": metrics.diversity(texts),
        "tokens": mean(map(len, texts)),
        "drawn": sum(drawn) / len(PROMPTS),
        "fluency": mean(one for one, _ in both),
        "fluency of new": mean(new for _, new in both),
        "stopped": mean(reason == "loop" for reason in made.finish_reasons),
        "seconds": time.perf_counter() - begin,
        "texts": [tokenizer.decode(ids) for ids in texts],
    }


def fluency(ids: list[int], values: list[float]) -> tuple[float, float]:
    """Mean of the ids' log-probabilities; of those that end no 4-gram that came before."""
    seen, new = set(), []
    for end, value in enumerate(values, 1):
        gram = tuple(ids[max(end - 4, 0) : end])
        new += [] if gram in seen else [value]
        seen.add(gram)
    return mean(values or [0.0]), mean(new or [0.0])


def mean(values) -> float:
    values = [float(value) for value in values]
    return sum(values) / len(values)


def tables(rows: list[dict]) -> str:
    columns = ("end in a loop", "had a loop", "seq-rep-4", "diversity", "tokens", "drawn", "fluency", "fluency of new")
    lines = []
    for temperature in sorted({row["temperature"] for row in rows}):
        lines += [f"Temperature {temperature:g}:" if temperature else "Greedy:", ""]
        lines += ["| | " + " | ".join(columns) + " |", "| --- |" + " --: |" * len(columns)]
        for row in rows:
            if row["temperature"] == temperature:
                shares = [f"{row[name]:.0%}".replace("%", " %") for name in columns[:2]]
                numbers = [f"{row[name]:.{0 if name in ('tokens', 'drawn') else 2}f}" for name in columns[2:]]
                lines.append(f"| {row['method']} | " + " | ".join(shares + numbers) + " |")
        lines.append("")
    return "\n".join(lines)


def picture(rows: list[dict], path: Path) -> None:
    import matplotlib

    matplotlib.use("svg")
    matplotlib.rcParams["svg.hashsalt"] = "loops"
    from matplotlib import pyplot

    temperatures = sorted({row["temperature"] for row in rows})
    figure, axes = pyplot.subplots(1, len(temperatures), figsize=(9, 3.6), sharex=True, sharey=True, squeeze=False)
    for axis, temperature in zip(axes[0], temperatures):
        for row in rows:
            if row["temperature"] == temperature:
                of_policy = row["method"] in POLICIES
                at = 100 * row["end in a loop"], row["fluency of new"]
                axis.plot(*at, "o" if of_policy else "s", color="#c33" if of_policy else "#666", markersize=5)
                axis.annotate(row["method"], at, xytext=(5, 3), textcoords="offset points", fontsize=7, color="#777")
        axis.set_title("greedy" if temperature == 0 else f"temperature {temperature:g}", color="#777")
        axis.set_xlabel("texts that end in a loop, %", color="#777")
        axis.tick_params(colors="#777")
    axes[0][0].set_ylabel("mean log-probability of new tokens", color="#777")
    figure.tight_layout()
    figure.savefig(path, transparent=True, metadata={"Date": None})


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--tokens", type=int, default=200)
    parser.add_argument("--temperatures", type=float, nargs="+", default=[0.0, 0.3])
    parser.add_argument("--methods", nargs="+", default=[*PARAMS, *POLICIES])
    parser.add_argument("--prompts", type=int, default=len(PROMPTS), help="only the first so many, to try it")
    parser.add_argument("--out", type=Path, default=Path("bench/loops.json"))
    parser.add_argument("--report", type=Path)
    arguments = parser.parse_args()
    if arguments.report:
        rows = json.loads(arguments.report.read_text())
        print(tables(rows))
        picture(rows, Path("docs/repetition.svg"))
        return
    del PROMPTS[arguments.prompts :]
    from pyllmdecode.cli.models import load_quietly

    torch.set_num_threads(1)  # the texts do not depend on how many cores there are
    model, tokenizer = load_quietly()
    rows = []
    for temperature in arguments.temperatures:
        for name in arguments.methods:
            if set(PARAMS.get(name, {})) - FIELDS or (name == "resample" and temperature == 0):
                continue  # not offered; a greedy request has no random numbers
            rows.append(measure(model, tokenizer, name, temperature, arguments.tokens))
            print({key: value for key, value in rows[-1].items() if key != "texts"}, flush=True)
            arguments.out.write_text(json.dumps(rows, indent=1) + "\n")


if __name__ == "__main__":
    main()

"""The tables of docs/study.md, of what `python -m bench.study` wrote: python -m bench.study.table FILE.json"""

import json
import sys

WRITTEN = ("seq-rep-4", "seq-rep-1", "rep-2", "rep-3", "diversity", "uniq-seq")
READ = ("perplexity", "rep-128", "wrep-128")


def row(name: str, values) -> str:
    return f"| {name} | " + " | ".join("" if value is None else f"{value:.3f}" for value in values) + " |"


def main(path: str) -> None:
    with open(path) as file:
        models = json.load(file)["models"]
    print("| | " + " | ".join((*WRITTEN, *READ, "ceiling")) + " |\n| --- |" + " --: |" * (len(WRITTEN) + len(READ) + 1))
    for name, found in models.items():
        for remedy, made in found["texts"].items():
            read = [found.get(key) for key in READ] + [found.get("repetition", {}).get("ceiling")]
            print(row(remedy if name == "remedies" else f"{name}, {remedy}", [made[key] for key in WRITTEN] + read))
    print()
    for name, found in models.items():
        if "repetition" in found:
            curve = found["repetition"]["probability"]
            print(row(name, [curve[n - 1] if n <= len(curve) else None for n in (1, 2, 3, 5, 8)]))


if __name__ == "__main__":
    main(sys.argv[1])

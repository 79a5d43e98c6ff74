"""Fine-tunes SmolLM2 with each loss and measures what it writes, beside remedies at decoding.

    python -m bench.study AUSTEN --out FILE.json [--steps 60] [--methods cross-entropy ditto ...]

AUSTEN: the folder that `corpus.py` says how to get. FILE.json is written after every model, and what it has is not done
again.
"""

import argparse
import json
import time
from pathlib import Path

import torch

import pyllmdecode as pld
from pyllmdecode.cli.models import load_quietly
from pyllmdecode.losses import split_sentences

from . import evaluate
from .corpus import HELD_OUT, books
from .finetune import METHODS, Trainer

CHARACTERS = 200_000  # of each book: more than is ever drawn from
GREEDY = {"temperature": 0.0}
REMEDIES = {
    "greedy, repetition penalty 1.2": {**GREEDY, "repetition_penalty": 1.2},
    "greedy, no repeated 4-grams": {**GREEDY, "no_repeat_ngram_size": 4},
    "greedy, frequency penalty 0.5": {**GREEDY, "frequency_penalty": 0.5},
    "greedy, presence penalty 0.5": {**GREEDY, "presence_penalty": 0.5},
    "top-p 0.95": {"top_p": 0.95},
    "top-k 50": {"top_k": 50},
    "min-p 0.1": {"min_p": 0.1},
}


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m bench.study", description=__doc__)
    parser.add_argument("austen", metavar="AUSTEN")
    parser.add_argument("--out", type=Path, required=True, metavar="FILE.json")
    parser.add_argument("--methods", nargs="*", default=list(METHODS), choices=METHODS)
    parser.add_argument("--steps", type=int, default=60)
    parser.add_argument("--batch", type=int, default=2)
    parser.add_argument("--length", type=int, default=192)
    parser.add_argument("--rate", type=float, default=5e-5)
    parser.add_argument("--prompts", type=int, default=24)
    parser.add_argument("--new-tokens", type=int, default=100)
    parser.add_argument("--windows", type=int, default=12)
    parser.add_argument("--seed", type=int, default=1)
    args = parser.parse_args()
    torch.manual_seed(args.seed)
    told = {key: value for key, value in vars(args).items() if key not in ("austen", "out", "methods")}
    done = json.loads(args.out.read_text()) if args.out.exists() else {"arguments": told, "models": {}}
    texts = books(args.austen)
    held_out = texts.pop(HELD_OUT)
    for name in ("plain", *args.methods, "remedies"):
        if name not in done["models"]:
            done["models"][name] = one(name, texts, held_out, args)
            args.out.write_text(json.dumps(done, indent=1))


def one(name: str, texts: dict, held_out: str, args) -> dict:
    model, tokenizer = load_quietly()
    begin, losses = time.perf_counter(), []
    if name in METHODS:
        text = "\n\n".join(book[:CHARACTERS] for book in texts.values())
        options = {"length": args.length, "batch": args.batch, "rate": args.rate, "seed": args.seed}
        trainer = Trainer(model, tokenizer, text, name, **options)
        for number in range(args.steps):
            losses.append(trainer.step(number))
            print(f"{name}: step {number + 1} of {args.steps}, loss {losses[-1]:.3f}", flush=True)
    result = {"losses": losses, "seconds": time.perf_counter() - begin, "texts": {}}
    ids = torch.tensor(tokenizer(held_out)["input_ids"])
    step = (len(ids) - 64) // args.prompts
    prompts = [ids[n * step : n * step + 48].tolist() for n in range(args.prompts)]
    seeds = pld.seeds(args.seed, len(prompts))
    for remedy, given in (REMEDIES if name == "remedies" else {"greedy": GREEDY}).items():
        params = [pld.SamplingParams(**given, seed=seed) for seed in seeds]
        made = evaluate.texts(model, tokenizer, prompts, params, args.new_tokens)
        result["texts"][remedy] = made | {"text": tokenizer.decode(made["text"])}
        print(f"{name}: {remedy}: seq-rep-4 {made['seq-rep-4']:.3f}", flush=True)
    if name != "remedies":
        result |= evaluate.perplexity(model, ids, 256, args.windows)
        sentences = [tokenizer(" " + sentence)["input_ids"] for sentence in split_sentences(held_out[:20_000])]
        result["repetition"] = evaluate.repetition(model, [ids for ids in sentences if 6 <= len(ids) <= 20][:8], 192)
        print(f"{name}: perplexity {result['perplexity']:.2f}, {result['seconds']:.0f} s of training", flush=True)
    return result


if __name__ == "__main__":
    main()

"""`pyllmdecode study`: how a model's belief in a sentence grows with each repetition, as numbers and pictures."""

import argparse
import json
import random
from dataclasses import asdict
from pathlib import Path

import pyllmdecode as pld
from pyllmdecode.losses import split_sentences
from pyllmdecode.repetition.study import Summary, random_sentences, study

from .demo import progress
from .generate import generate
from .models import LOCAL, load_quietly, loading_demo
from .sentences import SENTENCES
from .writer import note

SHORTEST, LONGEST = 4, 40  # tokens of a sentence
KINDS = {"corpus": "of the text", "own": "the model's own", "random": "random tokens"}


def run(args: argparse.Namespace) -> int:
    """Writes study.json and pictures into a folder and prints a table; the exit status. ValueError: bad arguments."""
    for name, least in (("sentences", 1), ("max_length", 8 * SHORTEST)):
        if getattr(args, name) < least:
            raise ValueError(f"{name}: got {getattr(args, name)}; accepted: an integer of at least {least}")
    texts = SENTENCES if args.text is None else list(split_sentences(Path(args.text).read_text(encoding="utf-8")))
    out = Path(args.out)
    out.mkdir(parents=True, exist_ok=True)
    if args.model is None:
        note(loading_demo())
    model, tokenizer = load_quietly(args.model)
    limit = getattr(model.config.get_text_config(), "max_position_embeddings", None)
    if limit and args.max_length > limit:
        raise ValueError(f"max_length: got {args.max_length}; accepted by the model: up to {limit}; {LOCAL}")
    sentences = _sentences(model, tokenizer, texts, args)
    prefix = _prefix(model, tokenizer)
    from rich.console import Console

    found, console = {}, Console(stderr=True, highlight=False)
    with progress(console, "reading repetitions", sum(map(len, sentences.values()))) as advance:
        for kind, some in sentences.items():
            options = {"max_length": args.max_length, "prefix": prefix, "on_sentence": lambda _: advance()}
            found[kind] = study(model, some, **options)
    described = {"model": args.model or "SmolLM2-135M-Instruct", "seed": args.seed, "max_length": args.max_length}
    told = {kind: asdict(one) | {"ceiling": one.ceiling} for kind, one in found.items()}
    (out / "study.json").write_text(json.dumps({**described, "kinds": told}, indent=1) + "\n")
    pictures = _pictures(found, out)
    _print(found)
    print(f"\n{out / 'study.json'}" + "".join(f", {path}" for path in pictures))
    return 0


def _sentences(model, tokenizer, texts, args) -> dict[str, list[list[int]]]:
    ids = [tokenizer(" " + text, add_special_tokens=False)["input_ids"] for text in texts]
    longest = min(LONGEST, args.max_length // 4)
    fitting = [list(one) for one in ids if SHORTEST <= len(one) <= longest]
    if not fitting:
        raise ValueError(f"text: got no sentence of {SHORTEST} to {longest} tokens; accepted: at least one")
    random.Random(args.seed).shuffle(fitting)
    chosen = fitting[: args.sentences]
    lengths = [len(one) for one in chosen]
    params = [
        pld.SamplingParams(seed=seed, top_p=0.95, min_new_tokens=max(lengths))
        for seed in pld.seeds(args.seed, len(chosen))
    ]
    made = generate(model, tokenizer, [one[:2] for one in chosen], params, max_new_tokens=max(lengths)).token_ids
    own = [row[:length] for row, length in zip(made, lengths)]
    special = {token for token in tokenizer.all_special_ids if token is not None}
    vocab = model.config.get_text_config().vocab_size
    return {"corpus": chosen, "own": own, "random": random_sentences(vocab, lengths, args.seed, sorted(special))}


def _prefix(model, tokenizer) -> list[int]:
    """What begins a text for this model, so that the first token has a probability too."""
    for token in (tokenizer.bos_token_id, tokenizer.eos_token_id):
        if token is not None:
            return [token]
    return []


def _print(found: dict[str, Summary]) -> None:
    shown = (1, 2, 3, 5, 10)
    print("mean probability of a token, at its n-th repetition")
    print(
        f"{'sentences':<18}"
        + "".join(f"{'n = ' + str(n):>9}" for n in shown)
        + f"{'rises':>9}{'wins':>9}{'ceiling':>9}{'r':>7}"
    )
    for kind, one in found.items():
        values = "".join(f"{one.probability[n - 1]:9.3f}" if n <= len(one.probability) else f"{'':9}" for n in shown)
        correlation = "" if one.correlation is None else f"{one.correlation:7.2f}"
        print(f"{KINDS[kind]:<18}{values}{one.rises[-1]:9.3f}{one.wins[-1]:9.3f}{one.ceiling:9.3f}{correlation}")
    print("rises, wins: the share of tokens that became more probable, and that greedy decoding now takes, at the end;")
    print("ceiling: the largest probability of a sentence, on average; r: correlation of first and largest probability")


def _pictures(found: dict[str, Summary], out: Path) -> list[Path]:
    try:
        import matplotlib
    except ImportError:
        note("no pictures: they need pip install matplotlib")
        return []
    matplotlib.use("svg")
    from matplotlib import pyplot

    paths = []
    names = {"probability": "mean probability of a token", "rises": "share that rises", "wins": "share that wins"}
    for field, label in names.items():
        figure, axes = pyplot.subplots(figsize=(6, 3.6))
        for kind, one in found.items():
            axes.plot(range(1, len(getattr(one, field)) + 1), getattr(one, field), label=KINDS[kind])
        axes.set(xlabel="repetition", ylabel=label, ylim=(0, 1.02))
        axes.legend(frameon=False)
        paths.append(_save(figure, out / f"{field}.svg"))
    figure, axes = pyplot.subplots(figsize=(4.5, 4.5))
    for kind, one in found.items():
        axes.plot(one.initial, one.strongest, "o", markersize=4, label=KINDS[kind])
    axes.set(xlabel="probability at first", ylabel="largest probability", xlim=(0, 1), ylim=(0, 1.02))
    axes.legend(frameon=False)
    paths.append(_save(figure, out / "strength.svg"))
    return paths


def _save(figure, path: Path) -> Path:
    from matplotlib import pyplot

    figure.tight_layout()
    figure.savefig(path, metadata={"Date": None})
    pyplot.close(figure)
    return path

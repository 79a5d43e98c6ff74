"""`pyllmdecode demo`: a real model with and without the repetition filters, and what sampling costs.

Nothing here is recorded beforehand: the texts come from SmolLM2-135M-Instruct, and the two samplers are timed on the
logits and histories of that very run. Everything runs on one thread. For a model of this size that costs little, and
neither the texts nor the timing depend on the number of cores.
"""

import contextlib
import sys
import time
from collections.abc import Callable, Iterator
from statistics import median

import torch

import pyllmdecode as pld

from .models import load_quietly, loading_demo
from .text import TextStream

PROMPTS = (
    "The history of the city of London begins",
    "It was a dark and stormy night, and",
    "In the year 2050,",
)
GREEDY = pld.SamplingParams(temperature=0.0)
FILTERS = pld.SamplingParams(temperature=0.8, top_p=0.95, repetition_penalty=1.2, no_repeat_ngram_size=3, seed=2025)
FILTERS_IN_WORDS = "repetition penalty 1.2, no repeated 3-grams, temperature 0.8, top-p 0.95, seed 2025"
NGRAM = 4
SHOWN_LINES = 6
WARM_UP_STEPS = 5  # left out of the medians


def run(max_new_tokens: int = 200, full: bool = False) -> int:
    """Print the demo; the exit status."""
    try:
        from rich.console import Console

        from .generate import generate
    except ImportError as error:
        print(f"pyllmdecode: error: the demo needs pip install 'pyllmdecode[demo]' ({error})", file=sys.stderr)
        return 2
    console, notes = Console(highlight=False), Console(file=sys.stderr, highlight=False)
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        with progress(notes, loading_demo()):
            model, tokenizer = load_quietly()
        n, recorded = len(PROMPTS), [[] for _ in PROMPTS]

        def keep(rows: list[int], logits: torch.Tensor) -> None:
            for place, row in enumerate(rows):
                if row >= n:
                    recorded[row - n].append(logits[place].clone())

        with progress(notes, f"generating {2 * n} texts as one batch", 2 * n * max_new_tokens) as advance:
            made = generate(
                model,
                tokenizer,
                PROMPTS * 2,
                [GREEDY] * n + [FILTERS] * n,
                max_new_tokens=max_new_tokens,
                on_token=lambda *_: advance(),
                on_logits=keep,
            )
        with progress(notes, "timing both samplers on these logits", sum(map(len, recorded))) as advance:
            timing = time_samplers(made.prompt_ids[n:], made.token_ids[n:], recorded, advance)
    except (OSError, ImportError, ValueError) as error:
        print(f"pyllmdecode: error: {error}", file=sys.stderr)
        return 2
    finally:
        torch.set_num_threads(threads)
    show_texts(console, tokenizer, made, full)
    show_tables(console, made, timing)
    return 0


def time_samplers(
    prompt_ids: list[list[int]],
    token_ids: list[list[int]],
    recorded: list[list[torch.Tensor]],
    advance: Callable[[], None],
) -> dict[str, float]:
    """Median seconds a token, one row at a time, in turns on the same logits and histories."""
    from transformers import (
        LogitsProcessorList,
        NoRepeatNGramLogitsProcessor,
        RepetitionPenaltyLogitsProcessor,
        TemperatureLogitsWarper,
        TopPLogitsWarper,
    )

    chain = LogitsProcessorList(
        [
            RepetitionPenaltyLogitsProcessor(FILTERS.repetition_penalty),
            NoRepeatNGramLogitsProcessor(FILTERS.no_repeat_ngram_size),
            TemperatureLogitsWarper(FILTERS.temperature),
            TopPLogitsWarper(FILTERS.top_p),
        ]
    )
    generator = torch.Generator().manual_seed(FILTERS.seed)
    seconds: dict[str, list[float]] = {"pyllmdecode": [], "transformers": []}
    for prompt, made, rows in zip(prompt_ids, token_ids, recorded, strict=True):
        sampler = pld.Sampler(rows[0].shape[-1], 1, len(prompt) + len(made))
        sampler.add(FILTERS, prompt)
        for step, row in enumerate(rows):
            history, logits = torch.tensor([prompt + made[:step]]), row[None]

            def ours(sampler=sampler, logits=logits) -> int:
                return int(sampler.step(logits).token_ids[0])

            def theirs(history=history, logits=logits) -> int:
                probabilities = torch.softmax(chain(history, logits), -1)
                return int(torch.multinomial(probabilities, 1, generator=generator)[0, 0])

            drawn = {}
            turns = [("pyllmdecode", ours), ("transformers", theirs)]
            for name, draw in turns if step % 2 else turns[::-1]:
                start = time.perf_counter()
                drawn[name] = draw()
                seconds[name].append(time.perf_counter() - start)
            if drawn["pyllmdecode"] != made[step]:  # the batch drew this token from the same logits, seed and position
                raise RuntimeError(f"step {step} drew {drawn['pyllmdecode']} alone and {made[step]} in the batch")
            advance()
    medians = {name: median(times[WARM_UP_STEPS:] or times) for name, times in seconds.items()}
    return {**medians, "vocab": recorded[0][0].shape[-1]}


def show_texts(console, tokenizer, made, full: bool) -> None:
    from rich.rule import Rule

    n = len(PROMPTS)
    for index, prompt in enumerate(PROMPTS):
        console.print(Rule(f"[bold]{prompt} …", align="left"))
        for row, label in ((index, "plain greedy"), (n + index, "pyllmdecode")):
            ids = made.token_ids[row]
            share = pld.metrics.seq_rep_n([ids], NGRAM)
            console.print(f"[cyan]{label}[/], {len(ids)} tokens, {share:.0%} of the {NGRAM}-grams repeated")
            lines = styled_text(tokenizer, made.prompt_ids[row], ids).wrap(console, console.width - 2)
            for line in lines if full else lines[:SHOWN_LINES]:
                line.pad_left(2)
                console.print(line)
            if len(lines) > SHOWN_LINES and not full:
                console.print(f"  [dim]… {len(lines) - SHOWN_LINES} more lines (--full)[/]")
        console.print()
    if console.color_system:
        console.print(f"[red]Red[/]: {NGRAM}-grams that the text already had.")


def styled_text(tokenizer, context: list[int], ids: list[int]):
    """The text of `ids`, with the tokens of repeated n-grams in red."""
    from rich.text import Text

    seen, repeated = set(), [False] * len(ids)
    for end in range(NGRAM, len(ids) + 1):
        gram = tuple(ids[end - NGRAM : end])
        if gram in seen:
            repeated[end - NGRAM : end] = [True] * NGRAM
        seen.add(gram)
    stream, text = TextStream(tokenizer, context), Text("…")
    for token, again in zip(ids, repeated, strict=True):
        piece = stream.push(token).replace("\n\n", "\n")
        text.append(piece.lstrip("\n") if text.plain.endswith("\n") else piece, "red" if again else "")
    return text.append(stream.flush())


def show_tables(console, made, timing: dict[str, float]) -> None:
    from rich.box import SIMPLE_HEAD
    from rich.table import Table

    n = len(PROMPTS)
    table = Table(box=SIMPLE_HEAD)
    table.add_column("share of repeated 4-grams (seq-rep-4)")
    for name in ("plain greedy", "pyllmdecode"):
        table.add_column(name, justify="right")
    halves = made.token_ids[:n], made.token_ids[n:]
    for index, prompt in enumerate(PROMPTS):
        table.add_row(prompt + " …", *(f"{pld.metrics.seq_rep_n([half[index]], NGRAM):.3f}" for half in halves))
    table.add_row("mean", *(f"{pld.metrics.seq_rep_n(half, NGRAM):.3f}" for half in halves), style="bold")
    table.add_row("diversity, 1 is best (Su et al. 2022)", *(f"{pld.metrics.diversity(half):.3f}" for half in halves))
    table.add_section()
    ours, theirs = timing["pyllmdecode"], timing["transformers"]
    table.add_row("[bold]µs to sample a token, median of one row", "[bold]transformers", "[bold]pyllmdecode")
    table.add_row(f"same chain, same logits (V = {timing['vocab']})", f"{1e6 * theirs:.0f}", f"{1e6 * ours:.0f}")
    table.add_row("times faster", "", f"{theirs / ours:.3g}", style="bold")
    console.print(table)
    each, steps = 1e6 * made.sampler_seconds / max(made.tokens, 1), max(map(len, made.token_ids))
    console.print(
        f"pyllmdecode: {FILTERS_IN_WORDS}; where no 3-gram comes again, no {NGRAM}-gram can, so its share must be 0. "
        f"transformers: its processors for the same four, softmax, multinomial. "
        f"One thread throughout, CPU. The batch of {2 * n} took {each:.0f} µs a token in the sampler and "
        f"{1e3 * made.model_seconds / steps:.0f} ms a step in the model."
    )


@contextlib.contextmanager
def progress(console, title: str, total: int | None = None) -> Iterator[Callable[[], None]]:
    """A bar that goes away at a terminal, else a line every few seconds. Yields what to call after each step."""
    if console.is_terminal:
        from rich.progress import Progress

        with Progress(console=console, transient=True) as bar:
            task = bar.add_task(title, total=total)
            yield lambda: bar.advance(task)
        return
    start, done, told = time.monotonic(), 0, time.monotonic()
    console.print(f"{title} …")

    def advance() -> None:
        nonlocal done, told
        done += 1
        if time.monotonic() - told > 5:
            told = time.monotonic()
            console.print(f"  {done} of {total}")

    yield advance
    console.print(f"  done in {time.monotonic() - start:.1f} s")

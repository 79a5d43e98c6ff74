"""The command `pyllmdecode`: generate text, measure and take out repetition, say what is built, run the demo."""

import argparse
import importlib.metadata
import itertools
import os
import platform
import secrets
import sys
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import replace

import pyllmdecode as pld
from pyllmdecode.backends.choice import choose
from pyllmdecode.params import check_vocab

from .options import make_parser, sampling_params
from .prompts import read_prompts, require_text
from .text import TextStream, prompt_ids
from .writer import Output, Request, Writer, note

SEED_BITS = 48  # what readers of JSON that take every number for a float64 keep, with room for further texts


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command with these arguments (None: those of the process); the exit status."""
    parser = make_parser()
    if sys.stdout is None:
        parser.fail("output: standard output is closed; accepted: an open one", 1)
    try:
        try:
            return _run(parser, parser.parse_args(argv))
        finally:
            sys.stdout.flush()  # here, where an error can still be told
    except KeyboardInterrupt:
        note("")
        return 130
    except BrokenPipeError:  # as in `| head`
        _discard_output()
        return 141
    except UnicodeEncodeError as error:
        parser.fail(f"output: {error}; accepted: a terminal in UTF-8 (PYTHONIOENCODING=utf-8)", 1)
    except OSError as error:
        _discard_output()
        parser.fail(f"output: cannot be written: {error.strerror or error}", 1)


def _discard_output() -> None:
    """What Python would still flush at exit goes nowhere."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _run(parser, args: argparse.Namespace) -> int:
    if args.command == "info":
        return _info()
    if args.command == "demo":
        from .demo import run

        try:
            _require_positive(max_new_tokens=args.max_new_tokens)
        except ValueError as error:
            parser.fail(str(error), 2)
        return run(args.max_new_tokens, full=args.full)
    if args.command in ("repetition", "dedupe"):
        from .repetition import run_dedupe, run_repetition

        output = Output()
        try:
            (run_dedupe if args.command == "dedupe" else run_repetition)(args, output)
        except (ImportError, MemoryError, ValueError) as error:
            parser.fail(str(error) or "not enough memory", 2)
        return _told(parser, output)
    if args.command == "study":
        try:
            from .study import run as run_study

            return run_study(args)
        except (ImportError, MemoryError, OSError, TypeError, UnicodeError, ValueError) as error:
            parser.fail(str(error) or "not enough memory", 2)
    return _generate(parser, args)


def _generate(parser, args: argparse.Namespace) -> int:
    try:
        params, prompts = _checked(args)

        from .generate import encode, generate, new_tokens
        from .models import loading_demo, open_model, quietly

        if args.model is None:
            note(loading_demo())
        with quietly():
            local = open_model(args.model)
            texts = [prompt_ids(local.tokenizer, text, args.chat) for text in prompts]
            ids = [encode(local.tokenizer, index, text) for index, text in enumerate(texts)]
            new_tokens(local.config, ids, args.max_new_tokens)
            check_vocab(params, local.config.get_text_config().vocab_size)
            model, tokenizer = local.model, local.tokenizer
    except (ImportError, OSError, TypeError, ValueError) as error:
        parser.fail(str(error), 2)

    if params.seed is None:
        params = replace(params, seed=secrets.randbits(SEED_BITS))
        if params.temperature > 0:
            note(f"seed {params.seed} (--seed {params.seed} draws the same again)")
    single = len(prompts) * args.n == 1
    live = single and not args.no_stream and not args.json and args.on_loop is None
    style = {"headings": not single, "live": live, "as_json": args.json}
    policy = _policy(args.on_loop, tokenizer)
    output, tokens, model_seconds, sampler_seconds = Output(), 0, 0.0, 0.0
    requests = _requests(tokenizer, prompts, ids, params, args)
    while batch := list(itertools.islice(requests, args.batch_size)):
        writer = Writer(output, batch, **style)
        try:
            made = generate(
                model,
                tokenizer,
                [request.prompt_ids for request in batch],
                [request.params for request in batch],
                max_new_tokens=args.max_new_tokens,
                backend=args.backend,
                policy=policy,
                on_rewind=writer.rewind,
                on_token=writer.token,
                on_end=writer.end,
                on_step=writer.step,
            )
        except (ValueError, RuntimeError, MemoryError) as error:
            parser.fail(str(error) or "not enough memory", 2)
        tokens += made.tokens
        model_seconds, sampler_seconds = model_seconds + made.model_seconds, sampler_seconds + made.sampler_seconds
    seconds, each = model_seconds + sampler_seconds, sampler_seconds / max(tokens, 1)
    note(f"[{tokens} tokens in {seconds:.2f} s, of which sampling: {1e6 * each:.0f} µs a token]")
    return _told(parser, output, ", or --json")


def _told(parser, output: Output, otherwise: str = "") -> int:
    """The exit status: 0 where all could be written as it is."""
    if output.escaped:
        message = f"output: some characters are not in {sys.stdout.encoding} and were written as \\u and a number"
        parser.fail(f"{message}; accepted: a terminal in UTF-8 (PYTHONIOENCODING=utf-8){otherwise}", 1)
    return 0


def _checked(args: argparse.Namespace) -> tuple[pld.SamplingParams, list[str]]:
    """Parameters and prompts, after all that can be said of the arguments without a model."""
    import torch

    params = sampling_params(args)
    _require_positive(max_new_tokens=args.max_new_tokens, n=args.n, batch_size=args.batch_size)
    for index, stop in enumerate(args.stop):
        require_text(f"stop[{index}]", stop)
        if not stop:
            raise ValueError(f"stop[{index}]: got {stop!r}; accepted: a text that is not empty")
    choose(args.backend, torch.device("cpu"))
    _policy(args.on_loop, None)
    return params, read_prompts(args.prompt, args.prompt_file)


def _policy(on_loop: str | None, tokenizer) -> pld.LoopPolicy | None:
    """tokenizer: None while only the words of the option are looked at."""
    if on_loop is None:
        return None
    kind, _, text = on_loop.partition(":")
    if on_loop in ("stop", "regenerate"):
        return pld.LoopPolicy(pld.policies.stop if on_loop == "stop" else pld.policies.regenerate())
    if kind != "escape" or not text:
        raise ValueError(f"on_loop: got {on_loop!r}; accepted: stop, regenerate, escape:TEXT")
    require_text("on_loop", text)
    if tokenizer is None:
        return None
    return pld.LoopPolicy(pld.policies.escape(tokenizer(text, add_special_tokens=False)["input_ids"]))


def _require_positive(**values: int | None) -> None:
    for name, value in values.items():
        if value is not None and value < 1:
            raise ValueError(f"{name}: got {value}; accepted: an integer of at least 1")


def _requests(tokenizer, prompts, ids, params: pld.SamplingParams, args: argparse.Namespace) -> Iterator[Request]:
    """All texts in their order. The k-th text of the same prompt has the seed k places further on."""
    before, number = Counter(), 0
    for index, prompt in enumerate(prompts):
        for _ in range(args.n):
            seed = params.seed + before[prompt]
            own = replace(params, seed=seed if seed < 2**64 else seed - 2**64)
            stream = TextStream(tokenizer, ids[index], args.stop)
            yield Request(number, index, prompt, ids[index], own, stream)
            before[prompt] += 1
            number += 1


def _info() -> int:
    import torch

    print(f"pyllmdecode {pld.__version__} in {pld.__path__[0]}")
    others = ", ".join(f"{name} {_version(name)}" for name in ("torch", "numpy", "transformers"))
    print(f"Python {platform.python_version()}, {others}; {torch.get_num_threads()} threads for torch")
    try:
        from pyllmdecode.backends import cpu

        print(f"CPU kernel: instruction set {cpu.isa()}; this machine runs {', '.join(cpu.isas())}", end=" ")
        print("(PYLLMDECODE_ISA=NAME forces one)")
    except (ImportError, RuntimeError, ValueError) as error:  # not built, or PYLLMDECODE_ISA names none of them
        print(f"CPU kernel: {error}")
    print("Backends:")
    for name, backend in pld.backends().items():
        print(f"  {name:<10} {'available' if backend.available else 'not available'}: {backend.reason}")
    return 0


def _version(name: str) -> str:
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return "not installed"

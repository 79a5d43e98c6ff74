"""The command `pyllmdecode`: generate text, say what is built, run the demo."""

import argparse
import dataclasses
import importlib.metadata
import importlib.util
import os
import platform
import re
import sys
import types
import typing
from collections.abc import Sequence

import pyllmdecode as pld

from .text import TextStream, load_quietly, prompt_ids, to_text


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> typing.NoReturn:
        self.exit(2, f"{self.prog}: error: {' '.join(message.split())}\n")


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command with these arguments (None: those of the process); the exit status."""
    parser = _Parser(prog="pyllmdecode", description="One fused decoding step for language models, exact to the bit.")
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    _add_generate(commands)
    commands.add_parser("info", help="versions, what is built, instruction sets, backends")
    demo = commands.add_parser("demo", help="a real model with and without the repetition filters, and what they cost")
    demo.add_argument("--max-new-tokens", type=int, default=200, metavar="N", help="per text (default: %(default)s)")
    demo.add_argument("--full", action="store_true", help="print the texts whole, not their first lines")
    args = parser.parse_args(argv)
    try:
        if args.command == "info":
            return _info()
        if args.command == "demo":
            from .demo import run

            return run(args.max_new_tokens, full=args.full)
        return _generate(parser, args)
    except KeyboardInterrupt:
        print(file=sys.stderr)
        return 130
    except BrokenPipeError:  # as in `| head`; what Python would still flush at exit goes nowhere
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 141


def _add_generate(commands) -> None:
    parser = commands.add_parser("generate", help="continue prompts with a language model")
    add = parser.add_argument
    add("--prompt", nargs="+", action="extend", required=True, metavar="TEXT", help="one or several, as one batch")
    add("--model", metavar="FOLDER", help="a local model: transformers' format or GGUF (default: the demo model)")
    add("--max-new-tokens", type=int, default=128, metavar="N", help="at most so many tokens (default: %(default)s)")
    add("--backend", default="auto", metavar="B", help="one of those that `pyllmdecode info` lists (default: auto)")
    add("--no-stream", action="store_true", help="print a text when it is finished, not token by token")
    add("--chat", action="store_true", help="put each prompt into the chat template of the model's tokenizer")
    group = parser.add_argument_group("sampling parameters", "As in SamplingParams; see docs/contract.md.")
    texts = _field_texts()
    for name, hint in typing.get_type_hints(pld.SamplingParams).items():
        options = _option(name, hint)
        group.add_argument("--" + name.replace("_", "-"), help=texts.get(name), default=argparse.SUPPRESS, **options)


def _option(name: str, hint: object) -> dict:
    """How a field of SamplingParams is read from the command line: a scalar by its type, anything else as ids."""
    if name == "logit_bias":
        return {"nargs": "+", "action": "extend", "type": _bias_pair, "metavar": "ID=VALUE"}
    if name == "bad_words_ids":
        return {"nargs": "+", "action": "extend", "type": _id_sequence, "metavar": "ID,ID"}
    union = typing.get_origin(hint) in (typing.Union, types.UnionType)
    kinds = [kind for kind in (typing.get_args(hint) if union else (hint,)) if kind is not type(None)]
    if kinds == [bool]:
        return {"action": argparse.BooleanOptionalAction}
    if kinds in ([int], [float], [str]):
        return {"type": kinds[0], "metavar": {int: "N", float: "X", str: "TEXT"}[kinds[0]]}
    return {"nargs": "*", "action": "extend", "type": int, "metavar": "ID"}


def _bias_pair(text: str) -> tuple[int, float]:
    token, equals, bias = text.partition("=")
    try:
        if equals:
            return int(token), float(bias)
    except ValueError:
        pass
    raise argparse.ArgumentTypeError(f"got {text!r}; accepted: ID=VALUE, as in 42=-1.5")


def _id_sequence(text: str) -> tuple[int, ...]:
    try:
        return tuple(int(part) for part in text.split(","))
    except ValueError:
        raise argparse.ArgumentTypeError(f"got {text!r}; accepted: ids with commas between them, as in 1,2,3") from None


def _field_texts() -> dict[str, str]:
    """The line that the docstring of SamplingParams has for each field."""
    texts = {}
    for names, text in re.findall(r"^ *([a-z_, ]+): (.+)$", pld.SamplingParams.__doc__ or "", re.MULTILINE):
        texts.update({name.strip(): text.replace("%", "%%") for name in names.split(",")})
    return {**texts, "eos_token_ids": "stop at these ids (default: those of the model)"}


def _generate(parser: argparse.ArgumentParser, args: argparse.Namespace) -> int:
    names = [field.name for field in dataclasses.fields(pld.SamplingParams)]
    given = {name: getattr(args, name) for name in names if name in args}
    if "logit_bias" in given:
        given["logit_bias"] = dict(given["logit_bias"])
    try:
        params = pld.SamplingParams(**given)
    except (ValueError, TypeError) as error:
        parser.error(str(error))

    from .generate import generate

    try:
        if args.model is None:
            print("loading the demo model (the first time, unpacking it takes 10 to 20 s)", file=sys.stderr)
        model, tokenizer = load_quietly(args.model)
        prompts = [prompt_ids(tokenizer, text, args.chat) for text in args.prompt]
    except (ImportError, OSError, ValueError) as error:
        parser.error(str(error))

    single = len(prompts) == 1
    live = TextStream(tokenizer, prompts[0]) if single and not args.no_stream else None
    on_token = (lambda _, token: print(live.push(token), end="", flush=True)) if live else None
    try:
        result = generate(
            model,
            tokenizer,
            prompts,
            params,
            max_new_tokens=args.max_new_tokens,
            backend=args.backend,
            on_token=on_token,
        )
    except (ValueError, RuntimeError) as error:
        parser.error(str(error))
    if live:
        print(live.flush())
    else:
        for index, (before, made) in enumerate(zip(result.prompt_ids, result.token_ids, strict=True)):
            if not single:
                print(f"{chr(10) if index else ''}>>> {args.prompt[index]}")
            print(to_text(tokenizer, made, before))
    seconds, each = result.model_seconds + result.sampler_seconds, result.sampler_seconds / max(result.tokens, 1)
    summary = f"{result.tokens} tokens in {seconds:.2f} s, of which sampling: {1e6 * each:.0f} µs a token"
    print(f"[{summary}]", file=sys.stderr)
    return 0


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

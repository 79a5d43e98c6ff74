"""What the command accepts, and its help. Every field of SamplingParams is an option of `generate` by itself."""

import argparse
import dataclasses
import types
import typing

import pyllmdecode as pld

# One line for each field of SamplingParams; the default is added where the field has one.
HELP = {
    "temperature": "below 1 prefers probable tokens more, above 1 less; 0 always takes the most probable one",
    "top_k": "draw from the N most probable tokens, and those equal to the last of them; 0 is off",
    "top_p": "draw from the most probable tokens that together have this share of the probability; 1 is off",
    "min_p": "drop tokens less probable than this fraction of the most probable one; 0 is off",
    "repetition_penalty": "above 1 makes tokens of prompt and text less probable; 1 is off",
    "presence_penalty": "taken off the logit of each token that the text already has; 0 is off",
    "frequency_penalty": "taken off the logit of a token for each time that the text has it; 0 is off",
    "no_repeat_ngram_size": "no N tokens in a row come twice, those of the prompt included; 0 is off",
    "logit_bias": "add VALUE to the logit of the token ID (default: none)",
    "allowed_token_ids": "draw no other tokens than these (default: all)",
    "bad_words_ids": "sequences of tokens that must not come, each with commas between its ids (default: none)",
    "min_new_tokens": "a text has at least N tokens before it may end by itself",
    "eos_token_ids": "tokens that end a text (default: those of the model)",
    "logprobs": "of each token, in the JSON objects: raw (of the model), processed (of what was drawn from) or both "
    "(default: none)",
    "top_logprobs": "in the JSON objects, the N most probable tokens at each place",
    "top_n_sigma": "drop tokens whose logit is more than X standard deviations below the largest; 0 is off",
    "min_k": "cut the list of tokens at the steepest drop of their logits, keeping more of a flat one (default: off)",
    "p_less": "drop tokens less probable than that two draws agree",
    "top_h": "keep the most probable tokens that have this share of the entropy (default: off)",
    "epsilon_cutoff": "drop tokens less probable than this; 0 is off",
    "eta_cutoff": "the same, but drop fewer where much is possible; 0 is off",
    "typical_p": "keep this share of the probability, of tokens about as surprising as expected; 1 is off",
    "xtc_probability": "how often all but the least of the tokens beyond the threshold are dropped; 0 is off",
    "xtc_threshold": "what counts as probable to XTC",
    "min_tokens_to_keep": "no filter leaves fewer tokens",
    "dynatemp_range": "the temperature goes up and down so far with the entropy; 0 is off",
    "dynatemp_exponent": "above 1 the temperature stays low unless the entropy is large",
    "temperature_last": "let filters see a temperature of 1",
    "penalty_last_n": "let the penalties look at the last N tokens only; -1 is all",
    "repetition_scope": "what the repetition penalty looks at: all, generated or prompt",
    "count_scope": "what presence and frequency penalty look at: all, generated or prompt",
    "ngram_scope": "where n-grams must not come twice: all or generated",
    "bad_words_scope": "where bad words are looked for: all or generated",
    "sequence_bias": "add VALUE to the logit of the last of these where the others came before it (default: none)",
    "suppress_token_ids": "tokens that must not come (default: none)",
    "begin_suppress_token_ids": "tokens that must not come first (default: none)",
    "forced_tokens": "at this place of the text, counted from 0, comes this token (default: none)",
    "forced_eos": "a text that gets so far ends with its N-th token (default: off)",
    "exponential_decay_length_penalty": "from START tokens on, make an end more probable by FACTOR each (default: off)",
    "encoder_ids": "another text, for the next two (default: none)",
    "encoder_repetition_penalty": "above 1 makes tokens of that text more probable; 1 is off",
    "encoder_no_repeat_ngram_size": "no N tokens in a row of that text come; 0 is off",
    "dry_multiplier": "DRY: how much is taken off what would repeat something; 0 is off",
    "dry_base": "DRY: how fast that grows with the length of the repetition",
    "dry_allowed_length": "DRY: repetitions of so many tokens may go on at the price of the multiplier",
    "dry_penalty_last_n": "DRY: look at the last N tokens only; -1 is all",
    "dry_sequence_breakers": "DRY: repetitions do not reach across these tokens, or sequences of them (default: none)",
    "repetition_detection": "say where a text has become a loop, as max_pattern_size=64 min_count=3 (default: off)",
    "draw": "inverse, or gumbel, whose races do not depend on what other tokens there are",
    "seed": "the same seed draws the same text; further texts of a prompt take the numbers after it "
    "(default: a new one, which is printed)",
}


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> typing.NoReturn:
        self.fail(message, 2)

    def fail(self, message: str, status: int) -> typing.NoReturn:
        line = " ".join(message.split()).encode(errors="backslashreplace").decode()
        self.exit(status, f"{self.prog}: error: {line}\n")


def make_parser() -> _Parser:
    parser = _Parser(prog="pyllmdecode", description="One fused decoding step for language models, exact to the bit.")
    parser.add_argument("--version", action="version", version=f"pyllmdecode {pld.__version__}")
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    _add_generate(commands)
    _add_repetition(commands)
    _add_study(commands)
    commands.add_parser("info", help="versions, what is built, instruction sets, backends")
    demo = commands.add_parser("demo", help="a real model with and without the repetition filters, and what they cost")
    demo.add_argument("--max-new-tokens", type=int, default=200, metavar="N", help="per text (default: %(default)s)")
    demo.add_argument("--full", action="store_true", help="print the texts whole, not their first lines")
    return parser


def sampling_params(args: argparse.Namespace) -> pld.SamplingParams:
    """Those that were given; ValueError or TypeError where SamplingParams refuses one."""
    names = [field.name for field in dataclasses.fields(pld.SamplingParams)]
    given = {name: getattr(args, name) for name in names if name in args}
    if "logit_bias" in given:
        given["logit_bias"] = dict(given["logit_bias"])
    if "repetition_detection" in given:
        given["repetition_detection"] = dict(given["repetition_detection"])
    return pld.SamplingParams(**given)


def _add_generate(commands) -> None:
    parser = commands.add_parser(
        "generate",
        help="continue prompts with a language model",
        usage="%(prog)s (--prompt TEXT ... | --prompt-file FILE ...) [options]",
    )
    texts = parser.add_argument_group("prompts and texts").add_argument
    several = {"nargs": "+", "action": "extend", "default": []}
    texts("--prompt", **several, metavar="TEXT", help="one or several prompts; - is standard input")
    texts(
        "--prompt-file",
        **several,
        metavar="FILE",
        help='one prompt a line, or JSON objects with "prompt" where the name ends in .jsonl; - is standard input',
    )
    texts("--chat", action="store_true", help="put each prompt into the chat template of the model's tokenizer")
    texts("-n", type=int, default=1, metavar="N", help="texts for each prompt (default: %(default)s)")
    texts("--stop", **several, metavar="TEXT", help="a text ends before the first of these (default: none)")
    texts(
        "--on-loop",
        metavar="WHAT",
        help="where a text begins to repeat itself: stop; regenerate (goes back, and on with other parameters for a "
        "while); or escape:TEXT (goes back, and on after TEXT). --repetition-detection says what is a loop (default: "
        "go on)",
    )
    texts(
        "--max-new-tokens",
        type=int,
        metavar="N",
        help="a text has at most N tokens (default: 128, or what the model has room for)",
    )
    how = parser.add_argument_group("model and output").add_argument
    how("--model", metavar="FOLDER", help="a local model: transformers' format or GGUF (default: the demo model)")
    how("--backend", default="auto", metavar="B", help="one that `pyllmdecode info` lists (default: %(default)s)")
    how(
        "--batch-size",
        type=int,
        default=16,
        metavar="N",
        help="texts that go through the model together (default: %(default)s)",
    )
    how("--json", action="store_true", help="print an object a line for each text: text, token ids, seed, ...")
    how("--no-stream", action="store_true", help="print a text when it is finished, not token by token")
    group = parser.add_argument_group("sampling parameters", "docs/contract.md says exactly what each of them means.")
    defaults = {field.name: field.default for field in dataclasses.fields(pld.SamplingParams)}
    for name, hint in typing.get_type_hints(pld.SamplingParams).items():
        text = HELP.get(name)
        if text and defaults[name] is not None:
            text += f" (default: {defaults[name]})"
        group.add_argument("--" + name.replace("_", "-"), help=text, default=argparse.SUPPRESS, **_option(name, hint))


def _add_repetition(commands) -> None:
    shown = commands.add_parser("repetition", help="measure and mark what repeats itself in texts")
    cleaned = commands.add_parser("dedupe", help="take out of texts what repeats itself")
    for parser in (shown, cleaned):
        parser.add_argument(
            "files",
            nargs="+",
            metavar="FILE",
            help='a text, or JSON objects with "text" or "token_ids" where the name ends in .jsonl, as `generate '
            "--json` prints them; - is standard input",
        )
        parser.add_argument(
            "--color",
            choices=("auto", "always", "never"),
            default="auto",
            help="mark parts in red; without colours, [[brackets]] do (default: %(default)s, at a terminal)",
        )
    shown.description = (
        "The share of n-grams of words that came before (rep-n), diversity, distinct words, and the first loop: how "
        "many words long the block is that stood three times in a row, and at which word it did. Of scripts without "
        "spaces, characters count as words. Below, the texts, with the 4-grams marked that came before."
    )
    shown.add_argument("--metrics", action="store_true", help="print no texts")
    shown.add_argument(
        "--lines", type=int, default=40, metavar="N", help="so many lines of each text, 0: all (default: %(default)s)"
    )
    cleaned.description = (
        "Of sentences and phrases that stand in a row several times, the first stays, and so it does of sentences that "
        'come again elsewhere. JSON objects keep their other fields and get "removed", with places in what was given.'
    )
    given = cleaned.add_argument
    given("--keep", type=int, default=1, metavar="N", help="of what stands in a row, N stay (default: %(default)s)")
    given(
        "--phrases",
        type=int,
        default=3,
        metavar="N",
        help="words that stand in a row N times are a phrase that repeats itself; 0: leave them (default: %(default)s)",
    )
    given("--max-size", type=int, default=256, metavar="N", help="words or sentences of a block (default: %(default)s)")
    given("--blocks-only", action="store_true", help="leave sentences that come again, but not in a row")
    given(
        "--near",
        type=float,
        metavar="X",
        help="take out sentences that share this part of their characters with an earlier one, as 0.8; needs "
        "pip install 'pyllmdecode[dedupe]'",
    )
    given("--show", action="store_true", help="print the texts as they are, with what would be taken out marked")


def _add_study(commands) -> None:
    parser = commands.add_parser("study", help="measure how a model comes to repeat itself")
    parser.description = (
        "How probable each token of a sentence is, against how often the model has just read that sentence (Xu et al. "
        "2022): for sentences of a text, for the model's own and for random tokens. Writes study.json and pictures. "
        "Takes minutes with the demo model on two cores."
    )
    given = parser.add_argument
    given("--model", metavar="FOLDER", help="a local model: transformers' format or GGUF (default: the demo model)")
    given("--text", metavar="FILE", help="a text to take sentences from (default: two dozen made-up ones)")
    given("--sentences", type=int, default=16, metavar="N", help="of each kind (default: %(default)s)")
    given("--max-length", type=int, default=320, metavar="N", help="repeat up to N tokens (default: %(default)s)")
    given("--seed", type=int, default=1, metavar="N", help="of the choice of sentences (default: %(default)s)")
    given("--out", default="study", metavar="FOLDER", help="where to write (default: ./%(default)s)")


def _option(name: str, hint: object) -> dict:
    """How a field of SamplingParams is read from the command line: a scalar by its type, anything else as ids."""
    if name == "logit_bias":
        return {"nargs": "+", "action": "extend", "type": _bias_pair, "metavar": "ID=VALUE"}
    if name == "sequence_bias":
        return {"nargs": "+", "action": "extend", "type": _sequence_pair, "metavar": "ID,ID=VALUE"}
    if name == "forced_tokens":
        return {"nargs": "+", "action": "extend", "type": _forced_pair, "metavar": "PLACE=ID"}
    if name == "exponential_decay_length_penalty":
        return {"type": _decay, "metavar": "START,FACTOR"}
    if name == "repetition_detection":
        return {"nargs": "+", "action": "extend", "type": _detection_pair, "metavar": "NAME=VALUE"}
    if name in ("bad_words_ids", "dry_sequence_breakers"):
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


def _sequence_pair(text: str) -> tuple[tuple[int, ...], float]:
    ids, _, bias = text.rpartition("=")
    try:
        return tuple(int(part) for part in ids.split(",")), float(bias)
    except ValueError:
        raise argparse.ArgumentTypeError(f"got {text!r}; accepted: ID,ID=VALUE, as in 4,2=-1.5") from None


def _forced_pair(text: str) -> tuple[int, int]:
    place, _, token = text.partition("=")
    try:
        return int(place), int(token)
    except ValueError:
        raise argparse.ArgumentTypeError(f"got {text!r}; accepted: PLACE=ID, as in 0=42") from None


def _decay(text: str) -> tuple[int, float]:
    start, _, factor = text.partition(",")
    try:
        return int(start), float(factor)
    except ValueError:
        raise argparse.ArgumentTypeError(f"got {text!r}; accepted: START,FACTOR, as in 100,1.05") from None


def _detection_pair(text: str) -> tuple[str, float]:
    name, equals, value = text.partition("=")
    kinds = typing.get_type_hints(pld.RepetitionDetection)
    try:
        if equals and name in kinds:
            return name, kinds[name](value)
    except ValueError:
        pass
    accepted = f"NAME=VALUE with one of the names {', '.join(kinds)}"
    raise argparse.ArgumentTypeError(f"got {text!r}; accepted: {accepted}")


def _id_sequence(text: str) -> tuple[int, ...]:
    try:
        return tuple(int(part) for part in text.split(","))
    except ValueError:
        raise argparse.ArgumentTypeError(f"got {text!r}; accepted: ids with commas between them, as in 1,2,3") from None

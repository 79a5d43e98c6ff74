"""Sampling parameters: what they accept (docs/contract.md, section 3)."""

import functools
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, fields

from . import checks, more_checks, names, presets
from .checks import constant
from .detection import RepetitionDetection, detection_or_none, to_json
from .tables import PROCESSED, RAW

LOG2_E = 1.4426950408889634
FLOAT32_MAX = float.fromhex("0x1.fffffep+127")
KINDS = {None: 0, "raw": RAW, "processed": PROCESSED, "both": RAW | PROCESSED}  # of log-probabilities


def _by_name(cls):
    """A class whose constructor says of a name that it does not know what it is called here, or where it belongs."""
    init = cls.__init__

    @functools.wraps(init)
    def __init__(self, *args, **given):
        if args:
            raise TypeError(f"SamplingParams: got {args[0]!r} without a name; accepted: fields by name, top_k=50 say")
        _require_fields(given)
        init(self, **given)

    cls.__init__ = __init__
    return cls


@_by_name
@dataclass(frozen=True, kw_only=True)
class SamplingParams:
    """How one row is sampled; the defaults draw from the plain softmax. Stages and formulas: docs/contract.md.

    temperature: finite, >= 0; 0 is greedy.
    top_k: keep the k largest and their ties; 0, -1 or None: off.
    top_p: keep the smallest top set that holds this share of the mass, in (0, 1]; 1 or None: off.
    min_p: keep tokens at least this probable relative to the most probable one, in [0, 1]; 0 or None: off.
    repetition_penalty: > 0, on every token of the history (Keskar et al. 2019); 1: off.
    presence_penalty, frequency_penalty: finite, on generated tokens only (OpenAI's rule); 0: off.
    no_repeat_ngram_size: ban tokens that would repeat an n-gram of this size; 0: off.
    logit_bias: {token id: float}, finite or -inf, which bans; kept as a tuple of pairs sorted by id.
    allowed_token_ids: nothing else can be drawn; an empty list allows nothing.
    bad_words_ids: non-empty sequences of ids that must not be completed.
    min_new_tokens, eos_token_ids: ban the eos ids (one id, or several) until so many tokens have been generated.
    logprobs, top_logprobs: what to say of the drawn token ("raw", "processed" or "both") and how many of the most
        probable ones to list (contract, section 6); None, 0: what the call asks for.
    repetition_detection: a RepetitionDetection, or a mapping of its fields: steps say in `status` and `loop_period`
        when what was generated has become a loop (contract, section 9). It changes nothing of what is drawn.
    seed: integer in [-2^63, 2^64), taken modulo 2^64; None: a fresh one is drawn.

    Other filters, each of what those before it left, in this order; top_k, top_p and min_p come after top_h:
    top_n_sigma: keep logits within so many standard deviations of the largest (llama.cpp); 0, less or None: off.
    min_k: cut the sorted logits at their steepest relative drop (vLLM's min_k_tau, >= 0, at least so much over their
        range are kept); None: off.
    p_less: keep tokens at least as probable as that two draws agree (arXiv 2509.23234).
    top_h: keep the most probable ones that together have this share of the entropy, in (0, 1] (transformers); None:
        off.
    epsilon_cutoff, eta_cutoff: keep tokens of at least this probability, which eta lowers where the entropy is large,
        in [0, 1) (transformers); 0 or None: off.
    typical_p: keep this share of the mass, of the tokens nearest to the expected surprise, in (0, 1] (transformers);
        1 or None: off.
    xtc_probability, xtc_threshold: so often drop all but the least probable of the tokens that are at least this
        probable, both in [0, 1] (llama.cpp); a probability of 0 or a threshold above 0.5: off.
    min_tokens_to_keep: no filter leaves fewer, >= 0.
    dynatemp_range, dynatemp_exponent: the temperature goes with the entropy of what is left, so far below and above
        `temperature` (llama.cpp), finite, >= 0; a range of 0 or None: off.
    temperature_last: filters see a temperature of 1, as in llama.cpp.

    Other changes of single logits:
    penalty_last_n: the penalties look at so many of the last tokens (llama.cpp); -1 or None: at all.
    repetition_scope, count_scope: which tokens the repetition penalty concerns, and which presence and frequency
        penalties: "all", "generated" or "prompt". ngram_scope, bad_words_scope: the same for bans, without "prompt".
    sequence_bias: {ids: bias}, added to the last id of a sequence whose others end the history (transformers).
    suppress_token_ids, begin_suppress_token_ids: never, and not as the first token that is generated.
    forced_tokens: {generated position: id}. forced_eos: the so-manieth generated token is one of eos_token_ids.
    exponential_decay_length_penalty: (start, factor), makes an end more probable from then on (transformers).
    encoder_ids: another text of the request, for encoder_repetition_penalty, which above 1 makes its tokens more
        probable, and encoder_no_repeat_ngram_size, whose n-grams cannot come (transformers).
    dry_multiplier, dry_base, dry_allowed_length, dry_penalty_last_n, dry_sequence_breakers: a penalty that grows with
        the length of what would be repeated (llama.cpp); breakers are ids or sequences of ids. A multiplier of 0: off.
    draw: "inverse", from the running sum of probabilities, or "gumbel", by races that depend on seed, position and a
        token's id, so that a token wins as long as none is added that beats it; `uniforms` do not matter then.

    Rows with the same seed and histories of one length draw with the same random bits, whatever their prompts:
    `pyllmdecode.seeds` makes different seeds from one.

    Fields are given by name. NumPy scalars and 0-d tensors are numbers; ids in logit_bias may be strings, as in JSON.
    Instances are immutable, hashable and picklable; a subclass is checked as well, whatever it overrides. Wrong values
    raise ValueError, wrong types and unknown names TypeError.
    """

    temperature: float = 1.0
    top_k: int | None = 0
    top_p: float | None = 1.0
    min_p: float | None = 0.0
    repetition_penalty: float = 1.0
    presence_penalty: float = 0.0
    frequency_penalty: float = 0.0
    no_repeat_ngram_size: int = 0
    logit_bias: Mapping[int | str, float] | tuple[tuple[int, float], ...] | None = None
    allowed_token_ids: Sequence[int] | None = None
    bad_words_ids: Sequence[Sequence[int]] | None = None
    min_new_tokens: int = 0
    eos_token_ids: int | Sequence[int] | None = None
    logprobs: str | None = None
    top_logprobs: int = 0
    repetition_detection: RepetitionDetection | Mapping | None = None
    seed: int | None = None

    top_n_sigma: float | None = 0.0
    min_k: float | None = None
    p_less: bool = False
    top_h: float | None = None
    epsilon_cutoff: float | None = 0.0
    eta_cutoff: float | None = 0.0
    typical_p: float | None = 1.0
    xtc_probability: float | None = 0.0
    xtc_threshold: float = 0.1
    min_tokens_to_keep: int | None = 1
    dynatemp_range: float | None = 0.0
    dynatemp_exponent: float = 1.0
    temperature_last: bool = False
    penalty_last_n: int | None = -1
    repetition_scope: str = "all"
    count_scope: str = "generated"
    ngram_scope: str = "all"
    bad_words_scope: str = "all"
    sequence_bias: Mapping[Sequence[int], float] | tuple[tuple[tuple[int, ...], float], ...] | None = None
    suppress_token_ids: Sequence[int] | None = None
    begin_suppress_token_ids: Sequence[int] | None = None
    forced_tokens: Mapping[int, int] | tuple[tuple[int, int], ...] | None = None
    forced_eos: int | None = None
    exponential_decay_length_penalty: tuple[int, float] | None = None
    encoder_ids: Sequence[int] | None = None
    encoder_repetition_penalty: float = 1.0
    encoder_no_repeat_ngram_size: int | None = 0
    dry_multiplier: float | None = 0.0
    dry_base: float = 1.75
    dry_allowed_length: int = 2
    dry_penalty_last_n: int | None = -1
    dry_sequence_breakers: Sequence[int | Sequence[int]] | None = None
    draw: str = "inverse"

    # Not fields: neither compared nor pickled.
    _record = None  # the packed record, seed 0, of parameters without lists
    _largest_id = -1
    _extras = False  # a field of more_checks differs from its default
    _text = "{}"  # what stands for these parameters in a graph, see `from_text`

    @property
    def watched(self) -> bool:
        """Whether steps look for loops."""
        detection = self.repetition_detection
        return detection is not None and bool(detection.max_pattern_size or detection.window)

    @classmethod
    def from_generation_config(cls, config) -> "SamplingParams":
        """What transformers' `generate` would do with this configuration in each step.

        config: a transformers.GenerationConfig, or a mapping of its fields. What it leaves open is as there: greedy
        without do_sample=True, and top_k=50 with it. suppress_tokens become bad words. Fields that concern the
        generation loop, such as max_new_tokens, are left to it.
        ValueError for a field that would change the draw and is not offered, such as num_beams, unless it is at the
        value that turns it off, and for a min_length, as that depends on the prompt; TypeError for an unknown one.
        """
        return cls(**names.from_generation_config(config, _NAMES))

    @classmethod
    def from_openai(cls, request: Mapping) -> "SamplingParams":
        """The parameters in a request in the form of OpenAI's API, with what vLLM and SGLang add to it.

        request: a mapping, such as the parsed JSON. None is as good as nothing. Fields that concern the generation
        loop, such as messages, max_tokens, stop or n, are left to it.
        ValueError for a field that would change the draw and is not offered, such as response_format, unless it is at
        the value that turns it off; TypeError for an unknown one.
        """
        return cls(**names.from_openai(request, _NAMES))

    @classmethod
    def like(cls, project: str, **given) -> "SamplingParams":
        """What another project would do: its names, its defaults, and the order of its stages as far as it matters.

        project: "llama.cpp", "vllm", "sglang" or "transformers" (a GenerationConfig's; greedy without do_sample).
        given: fields as they are called there, or here. ValueError for what would change the draw and has no
        equivalent, a pair of fields whose order is another there included; TypeError for an unknown name.
        """
        return cls(**presets.like(project, given, _NAMES))

    def __post_init__(self):
        def put(name, value):
            object.__setattr__(self, name, value)

        def given(name):
            """None for one of the filters: off."""
            value = getattr(self, name)
            return _DEFAULTS[name] if value is None else value

        put("temperature", checks.number("temperature", self.temperature, "a finite number >= 0", low=0.0))
        put("top_k", checks.integer("top_k", given("top_k"), "an integer >= -1, or None", low=-1))
        put("top_p", checks.number("top_p", given("top_p"), "a number in (0, 1], or None", low=checks.LEAST, high=1.0))
        put("min_p", checks.number("min_p", given("min_p"), "a number in [0, 1], or None", low=0.0, high=1.0))
        put("repetition_penalty", checks.factor("repetition_penalty", self.repetition_penalty))
        for name in ("presence_penalty", "frequency_penalty"):
            put(name, checks.float32(name, getattr(self, name)))
        checks.logprobs("logprobs", self.logprobs)
        for name in ("no_repeat_ngram_size", "min_new_tokens", "top_logprobs"):
            put(name, checks.integer(name, getattr(self, name), "an integer >= 0"))
        for name, check in (
            ("logit_bias", checks.biases),
            ("bad_words_ids", checks.sequences),
            ("eos_token_ids", checks.id_or_ids),
        ):
            if (value := getattr(self, name)) is not None:
                put(name, check(name, value) or None)
        if self.allowed_token_ids is not None:  # an empty tuple stays: it allows nothing
            put("allowed_token_ids", checks.ids("allowed_token_ids", self.allowed_token_ids))
        put("repetition_detection", detection_or_none("repetition_detection", self.repetition_detection))
        if self.seed is not None:
            put("seed", checks.seed("seed", self.seed, f"{checks.SEED}, or None"))
        extras = False
        for name, check in more_checks.FIELDS.items():
            value = getattr(self, name)
            if value is not _DEFAULTS[name]:
                value = _DEFAULTS[name] if value is None else check(name, value)
                put(name, value)
                extras = extras or value != _DEFAULTS[name]
        put("_extras", extras)
        if extras:
            more_checks.check_together(self)

        put("_largest_id", max([-1, *[max(ids) for _, ids in _id_lists(self) if ids]]))
        # Made now, because torch.compile can guard on what is there and on nothing that has yet to be computed.
        put("_text", _to_json({name: value for name in _NAMES if (value := getattr(self, name)) != _DEFAULTS[name]}))

    def __init_subclass__(cls, **options):
        # Native code relies on the checks, so that they come last whatever a subclass overrides.
        super().__init_subclass__(**options)
        for name in ("__init__", "__post_init__"):
            if name in vars(cls):
                setattr(cls, name, _then_checked(vars(cls)[name]))

    # A pickle carries the fields alone, and they are checked when it is read.
    def __getstate__(self) -> dict:
        return {field.name: getattr(self, field.name) for field in fields(self)}

    def __setstate__(self, state: dict) -> None:
        _require_fields(name for name in state if name not in self.__dataclass_fields__)
        vars(self).update(state)
        SamplingParams.__post_init__(self)


def _then_checked(function):
    @functools.wraps(function)
    def checked(self, *args, **given):
        function(self, *args, **given)
        SamplingParams.__post_init__(self)

    return checked


_DEFAULTS = {field.name: field.default for field in fields(SamplingParams)}
_NAMES = list(_DEFAULTS)
_encoder = json.JSONEncoder(separators=(",", ":"), default=to_json)


def _require_fields(given: Iterable[str]) -> None:
    for name in given:
        if name not in _DEFAULTS:
            raise TypeError(_advice(name))


@constant
def _advice(name: str) -> str:
    return names.advice(name, _NAMES)


@constant  # so that parameters can be made in a compiled function
def _to_json(given: dict) -> str:
    return _encoder.encode(given)


def from_text(text: str) -> SamplingParams:
    """The parameters whose `_text` this is: a line of JSON, with the fields that differ from the defaults."""
    given = json.loads(text)
    return SamplingParams(**given | {"logit_bias": dict(given.get("logit_bias", ()))})


def check_vocab(params: SamplingParams, vocab_size: int, row: int | None = None) -> None:
    """Raise ValueError if `params` names a token id >= `vocab_size`; `row` is only for the message."""
    if params._largest_id < vocab_size:
        return
    for name, ids in _id_lists(params):
        for token in ids:
            if token >= vocab_size:
                where = "" if row is None else f"row {row}: "
                raise ValueError(f"{where}{name}: got token id {token}; accepted: ids in [0, {vocab_size})")


def _id_lists(params: SamplingParams) -> list[tuple[str, Iterable[int]]]:
    bias, sequences = params.logit_bias or (), params.bad_words_ids or ()
    return [
        ("logit_bias", [token for token, _ in bias]),
        ("allowed_token_ids", params.allowed_token_ids or ()),
        ("bad_words_ids", [token for sequence in sequences for token in sequence]),
        ("eos_token_ids", params.eos_token_ids or ()),
        *(more_checks.id_lists(params) if params._extras else ()),
    ]

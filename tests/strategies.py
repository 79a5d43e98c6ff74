"""Parameters and batches for hypothesis to choose from."""

from collections.abc import Sequence

import numpy as np
import torch
from cases import DTYPES, FLOAT32_MAX, INF, LISTS, NAN, Case
from hypothesis import strategies as st

from pyllmdecode import RepetitionDetection, SamplingParams

FLOATS = st.one_of(
    st.floats(-30, 30, width=32),
    st.sampled_from([0.0, -0.0, 1.0, 2.0, 3.0, INF, -INF, NAN, FLOAT32_MAX, -FLOAT32_MAX, 1e-45, 1e-38]),
    st.floats(width=32),
)


@st.composite
def extras(draw, vocab: int) -> dict:
    """Fields that few requests use, each of them off most of the time."""

    def maybe(name, strategy):
        return {name: draw(strategy)} if draw(st.integers(0, 3)) == 0 else {}

    share, small = st.floats(0, 1, exclude_min=True), st.sampled_from([1e-6, 0.001, 0.01, 0.1, 0.3, 0.99])
    return {
        **maybe("top_n_sigma", st.one_of(st.floats(-1, 5), st.just(1e300))),
        **maybe("min_k", st.one_of(st.floats(0, 100), st.just(1e30))),
        **maybe("p_less", st.just(True)),
        **maybe("top_h", share),
        **maybe("epsilon_cutoff", small),
        **maybe("eta_cutoff", small),
        **maybe("typical_p", share),
        **maybe("xtc_probability", st.sampled_from([0.5, 1.0])),
        **maybe("xtc_threshold", st.one_of(st.floats(0, 1), st.just(0.01))),
        **maybe("min_tokens_to_keep", st.one_of(st.integers(1, vocab + 2), st.just(10**12))),
        **maybe("dynatemp_range", st.floats(0, 10)),
        **maybe("dynatemp_exponent", st.floats(0, 3)),
        **maybe("temperature_last", st.just(True)),
        **maybe("draw", st.just("gumbel")),
        **draw(edits(vocab)),
    }


@st.composite
def edits(draw, vocab: int) -> dict:
    """Those of them that change single logits."""

    def maybe(name, strategy):
        return {name: draw(strategy)} if draw(st.integers(0, 3)) == 0 else {}

    ids = st.integers(0, min(vocab - 1, 5))
    some, scopes = st.lists(ids, max_size=4), st.sampled_from(["all", "generated", "prompt"])
    biases = st.one_of(st.floats(-9, 9, width=32), st.just(-INF))
    fields = {
        **maybe("penalty_last_n", st.integers(-1, 30)),
        **maybe("repetition_scope", scopes),
        **maybe("count_scope", scopes),
        **maybe("ngram_scope", st.just("generated")),
        **maybe("bad_words_scope", st.just("generated")),
        **maybe("sequence_bias", st.dictionaries(st.lists(ids, min_size=1, max_size=3).map(tuple), biases, max_size=9)),
        **maybe("suppress_token_ids", some),
        **maybe("begin_suppress_token_ids", some),
        **maybe("encoder_ids", st.lists(st.integers(0, 7), max_size=20)),
        **maybe("encoder_repetition_penalty", st.floats(0.125, 8, width=32)),
        **maybe("encoder_no_repeat_ngram_size", st.integers(0, 4)),
        **maybe("dry_multiplier", st.one_of(st.floats(0, 3), st.just(1e38))),
        **maybe("dry_base", st.one_of(st.floats(1, 3), st.just(1e30))),
        **maybe("dry_allowed_length", st.integers(1, 6)),
        **maybe("dry_penalty_last_n", st.integers(-1, 30)),
        **maybe("dry_sequence_breakers", st.lists(st.one_of(ids, st.lists(ids, min_size=1, max_size=3)), max_size=3)),
    }
    if draw(st.integers(0, 3)) == 0:
        fields |= {"exponential_decay_length_penalty": (draw(st.integers(0, 9)), draw(st.floats(0.5, 1e6)))}
        fields |= {
            "eos_token_ids": draw(st.lists(ids, min_size=1, max_size=3)),
            **maybe("forced_eos", st.integers(1, 9)),
        }
    return fields


@st.composite
def detections(draw) -> RepetitionDetection:
    """Any detection of short blocks and windows."""
    most, n = draw(st.integers(0, 9)), draw(st.integers(1, 5))
    return RepetitionDetection(
        most,
        draw(st.integers(1, most or 3)),
        draw(st.integers(2, 5)),
        draw(st.integers(0, 12)),
        draw(st.sampled_from([0, n, n + 1, n + 7, 30])),
        n,
        draw(st.floats(0.01, 1.0)),
    )


@st.composite
def sampling_params(draw, vocab: int, extra: bool = False) -> SamplingParams:
    """Any parameters; each one is off half of the time. extra: also the fields that not all backends have yet."""

    def maybe(name, strategy):
        return {name: draw(strategy)} if draw(st.booleans()) else {}

    ids = st.integers(0, vocab - 1)
    small = st.floats(-3, 3, width=32)
    biases = st.one_of(st.floats(-50, 50, width=32), st.just(-INF))
    fields = dict(
        seed=draw(st.integers(0, 2**64 - 1)),
        **maybe("temperature", st.one_of(st.sampled_from([0.0, 1e-300, 1e-40, 1e39, 1e300]), st.floats(0, 5))),
        **maybe("top_k", st.integers(-1, vocab + 2)),
        **maybe("top_p", st.one_of(st.floats(0, 1, exclude_min=True), st.sampled_from([0.9999999, 1 - 1e-12]))),
        **maybe("min_p", st.floats(0, 1)),
        **maybe("repetition_penalty", st.floats(0.125, 8, width=32)),
        **maybe("presence_penalty", small),
        **maybe("frequency_penalty", small),
        **maybe("no_repeat_ngram_size", st.integers(0, 12)),
        **maybe("logit_bias", st.dictionaries(ids, biases, max_size=8)),
        **maybe("allowed_token_ids", st.lists(ids, max_size=2 * vocab)),
        **maybe("bad_words_ids", st.lists(st.lists(ids, min_size=1, max_size=4), max_size=5)),
        **maybe("min_new_tokens", st.integers(0, 20)),
        **maybe("eos_token_ids", st.lists(ids, max_size=3)),
        **maybe("logprobs", st.sampled_from([None, "raw", "processed", "both"])),
        **maybe("top_logprobs", st.integers(0, 9)),
        **maybe("repetition_detection", detections()),
    )
    return SamplingParams(**fields | (draw(extras(vocab)) if extra and draw(st.booleans()) else {}))


@st.composite
def cases(draw, extra: bool = False) -> Case:
    """A batch of a few rows, each with its own history and parameters. extra: as in sampling_params."""
    vocab = draw(st.one_of(st.integers(1, 12), st.sampled_from([63, 64, 65, 1023, 1024, 1025, 2100, 5000])))
    rows = draw(st.integers(1, 4))
    dtype = draw(st.sampled_from(list(DTYPES.values())))
    few = draw(st.lists(FLOATS, min_size=1, max_size=12))
    seed = draw(st.integers(0, 2**32))
    rng = np.random.default_rng(seed)
    logits = torch.from_numpy(rng.choice(np.array(few, np.float32), (rows, vocab)))
    if draw(st.booleans()):
        logits = logits + torch.from_numpy(rng.standard_normal((rows, vocab), np.float32))
    alphabet = st.integers(0, min(vocab, draw(st.integers(1, 9))) - 1)
    tokens = st.one_of(alphabet, st.integers(-2, vocab)) if draw(st.booleans()) else alphabet
    history = [draw(st.lists(tokens, max_size=40)) for _ in range(rows)]
    options = dict(LISTS[draw(st.integers(0, len(LISTS) - 1))])
    if draw(st.booleans()):
        options["prompt_lengths"] = [draw(st.integers(0, len(row))) for row in history]
    if draw(st.booleans()):
        options["positions"] = [draw(st.integers(-(2**63), 2**63 - 1)) for _ in range(rows)]
    if draw(st.booleans()):
        options["uniforms"] = [draw(st.integers(-(2**63), 2**64 - 1)) for _ in range(rows)]
    params: Sequence[SamplingParams] = [draw(sampling_params(vocab, extra)) for _ in range(rows)]
    return Case(logits.to(dtype), params, history, options)

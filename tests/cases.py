"""Rows, histories and parameters that are hard to get right, and how outputs are compared."""

import functools
import math
import zlib
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch

import pyllmdecode as pld
from pyllmdecode import SamplingParams

INF, NAN = math.inf, math.nan


FLOAT32_MAX = float(np.finfo(np.float32).max)


DTYPES = {"float32": torch.float32, "float16": torch.float16, "bfloat16": torch.bfloat16}


LISTS = (  # what a step may be asked for besides the token
    {},
    {"logprobs": "processed", "top_logprobs": 7},
    {"logprobs": "raw", "top_logprobs": 3},
    {"logprobs": "both", "top_logprobs": 2},
    {"top_logprobs": 5000},
)


@dataclass(eq=False)
class Case:
    """The arguments of one `sample`, and what the reference answers, which is computed once."""

    logits: torch.Tensor
    params: SamplingParams | list[SamplingParams]
    history: list[list[int]] | torch.Tensor | None = None
    options: dict = field(default_factory=dict)

    @functools.cached_property
    def expected(self):
        return pld.sample(self.logits, self.params, self.history, backend="reference", **self.options)

    @functools.cached_property
    def expected_logits(self):
        return pld.process_logits(self.logits, self.params, self.history, backend="reference", **self.prompts)

    @property
    def prompts(self):
        return {name: value for name, value in self.options.items() if name == "prompt_lengths"}

    def of_rows(self, rows: Sequence[int]) -> "Case":
        """The same for some of the rows, answers included."""

        def of(value):
            if isinstance(value, torch.Tensor):
                return value[rows]
            return [value[row] for row in rows] if isinstance(value, list) else value

        part = Case(self.logits[rows], of(self.params), of(self.history), {k: of(v) for k, v in self.options.items()})
        part.expected = self.expected._replace(**{k: of(v) for k, v in self.expected._asdict().items()})
        return part

    def for_backend(self, backend) -> "Case":
        """All of it, but only every eighth row for Triton's interpreter, which takes 0.1 s for one.

        The first one changes with the parameters, so that all rows come up, and every parameter meets some of them.
        """
        if not backend.interpreted or len(self.logits) <= 8:
            return self
        first = zlib.crc32(repr((self.params, self.logits.dtype, backend)).encode()) % 8
        return self.of_rows(range(first, len(self.logits), 8))

    def check_sample(self, backend):
        case = self.for_backend(backend)
        assert_same(backend.sample(case.logits, case.params, case.history, **case.options), case.expected)

    def check_process_logits(self, backend):
        case = self.for_backend(backend)
        got = backend.process_logits(case.logits, case.params, case.history, **case.prompts)
        assert got.dtype == torch.float32
        assert_equal(got, case.expected_logits, "process_logits")


def assert_equal(got, expected, what):
    """Equal with ==, in shape and type too. +0 and -0 are the same value."""
    assert (got.shape, got.dtype) == (expected.shape, expected.dtype), what
    wrong = (got != expected).nonzero()
    if len(wrong):
        first = tuple(wrong[0].tolist())
        raise AssertionError(f"{what}: {len(wrong)} differ, first at {first}: {got[first]} != {expected[first]}")


def assert_close(got, expected, what):
    """Within 1e-5, or a unit in the last place of float32 where that is more; infinities and NaNs alike."""
    assert got.shape == expected.shape, what
    got, expected = got.double(), expected.double()
    assert_equal(got.isnan(), expected.isnan(), what)
    got, expected = (torch.where(values.isnan(), 0.0, values) for values in (got, expected))
    finite = expected.isfinite()
    assert_equal(torch.where(finite, 0.0, got), torch.where(finite, 0.0, expected), what)
    error = torch.where(finite, (got - expected).abs() - 2.0**-23 * expected.abs(), 0.0)
    assert (error <= 1e-5).all(), f"{what}: off by {error.max().item()}"


def assert_same(got, expected):
    """Two SampleOutputs: integers bit for bit, log-probabilities within 1e-5."""
    for name, one, other in zip(got._fields, got, expected, strict=True):
        if other is None:
            assert one is None, name
        elif "logprobs" in name:
            assert_close(one, other, name)
        else:
            assert_equal(one, other, name)


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def normal(*shape, seed=0, spread=4.0):
    return torch.randn(*shape, generator=generator(seed)) * spread


def with_values(row, values):
    """`row` with {place: value}, places modulo its length."""
    row = row.clone()
    for place, value in values.items():
        row[place % len(row)] = value
    return row


def random_bits(vocab, dtype, seed=0):
    """Any bit pattern of the type: NaNs of every kind, infinities, subnormals, both zeros."""
    words = torch.int32 if dtype == torch.float32 else torch.int16
    info = torch.iinfo(words)
    return torch.randint(info.min, info.max, (vocab,), generator=generator(seed), dtype=words).view(dtype)


def hard_rows(vocab: int) -> dict[str, torch.Tensor]:
    """Float32 rows of `vocab` tokens by name."""
    noise, ids = normal(vocab), torch.arange(vocab)
    coarse = torch.randint(-3, 4, (vocab,), generator=generator(1)).float()
    rows = {
        "equal": torch.full((vocab,), -7.25),
        "normal": noise,
        "flat": noise * 1e-3,
        "steep": noise * 20,
        "spread of 1e-6": 1.0 + noise.sign() * 1e-6 * (ids % 7),
        "neighbouring floats": 1.0 + torch.randint(0, 9, (vocab,), generator=generator(2)) * 2.0**-23,
        "few levels": coarse,
        "1000 tied at the top": with_values(coarse, dict.fromkeys(range(3, 3 + 1000), 4.0)),
        "1000 tied below the top": with_values(noise, dict.fromkeys(range(1000), 9.0) | {5: 10.0, -1: 11.0}),
        "rising": ids * 0.01,
        "falling": ids * -0.01,
        "octaves": ids * -math.log(2),
        "largest first": with_values(noise, {0: 40.0}),
        "largest last": with_values(noise, {-1: 40.0}),
        "largest at a tile's end": with_values(noise, {1023: 12.0, 1024: 12.0}),
        "subnormal": torch.randint(-2000, 2000, (vocab,), generator=generator(3)) * 2.0**-149,
        "signed zeros": torch.where(ids % 3 == 0, 0.0, torch.where(ids % 3 == 1, -0.0, -noise.abs())),
        "huge": torch.where(ids % 2 == 0, 3e38, -3e38) * (ids % 5 > 0),
        "huge and random": noise * 5e37,
        "huge negative": -3e38 - noise.abs() * 1e36,
        "one finite": with_values(torch.full((vocab,), -INF), {vocab // 2: -3e38}),
        "three finite": with_values(torch.full((vocab,), -INF), {1: 1.0, 7: 1.0, -1: 0.0}),
        "all -inf": torch.full((vocab,), -INF),
        "all NaN": torch.full((vocab,), NAN),
        "all +inf": torch.full((vocab,), INF),
        "one +inf": with_values(noise, {vocab // 3: INF}),
        "some +inf and -inf": with_values(noise, {2: INF, 9: -INF, vocab // 2: INF, -2: INF, -5: -INF}),
        "+inf against -inf in one sum": with_values(noise, {0: INF, 64: -INF}),
        "NaN first": with_values(noise, {0: NAN}),
        "NaN last": with_values(noise, {-1: NAN}),
        "NaN and infinities": with_values(noise, {3: NAN, 67: INF, 131: -INF, -3: NAN}),
        "-inf but NaN": with_values(torch.full((vocab,), -INF), {vocab // 2: NAN}),
        "sums overflow": torch.full((vocab,), 3e38),
    }
    return {name: row.to(torch.float32) for name, row in rows.items()}


def hard_batch(vocab: int, dtype: torch.dtype) -> torch.Tensor:
    rows = [row.to(dtype) for row in hard_rows(vocab).values()]
    return torch.stack([*rows, random_bits(vocab, dtype), random_bits(vocab, dtype, seed=1)])


def repetitive(length: int, alphabet: int, seed: int = 0) -> list[int]:
    """Random tokens that begin to repeat halfway."""
    tokens = torch.randint(0, alphabet, (length,), generator=generator(seed)).tolist()
    return (tokens[: length // 2 + 1] * 2)[:length]


def hard_histories(rows: int, vocab: int) -> tuple[list[list[int]], list[int]]:
    """Histories of different lengths, some empty and some with ids outside the vocabulary, and their prompt lengths."""
    histories, prompts = [], []
    for row in range(rows):
        length = (0, 1, 5, 30, 90, 200)[row % 6]
        tokens = repetitive(length, min(vocab, (3, 20, vocab)[row % 3]), seed=row)
        if row % 5 == 4 and length > 4:
            tokens[1], tokens[-3], tokens[length // 2] = -1, vocab, -(2**40)
        histories.append(tokens)
        prompts.append(length * (row % 4) // 3)
    return histories, prompts


def hard_params(vocab: int) -> dict[str, SamplingParams]:
    """Parameters by name, each with a seed of its own."""
    p = dict
    some, one, two = list(range(0, vocab, 3)), 1 % vocab, 2 % vocab
    fields = {
        "plain": p(),
        "greedy": p(temperature=0.0, top_p=0.1, top_k=2),
        **{f"temperature {t:g}": p(temperature=t) for t in (1e-4, 0.7, 1e4, 5e-324, 1e-300, 1e-39, 1e39, 1e300)},
        **{f"top-k {k}": p(top_k=k) for k in (1, 2, 10, 64, 65, vocab - 1, vocab, vocab + 1) if k > 0},
        **{f"top-p {value!r}": p(top_p=value) for value in (5e-324, 1e-9, 0.1, 0.5, 0.9, 0.9999999, 1 - 1e-13)},
        **{f"min-p {value!r}": p(min_p=value) for value in (5e-324, 1e-12, 0.05, 0.9, 1.0)},
        "top-p, hot": p(top_p=0.95, temperature=30.0),
        "top-p, cold": p(top_p=0.95, temperature=0.01),
        "top-p after top-k": p(top_k=40, top_p=0.7, temperature=1.5),
        "min-p at a vanishing scale": p(min_p=0.5, temperature=1e300),
        "min-p at the capped scale": p(min_p=0.5, top_p=0.5, temperature=1e-300),
        "all three": p(top_k=60, top_p=0.9, min_p=0.02, temperature=0.8),
        "repetition above 1": p(repetition_penalty=1.3),
        "repetition below 1": p(repetition_penalty=0.6),
        "repetition extreme": p(repetition_penalty=1e-38),
        "frequency and presence": p(frequency_penalty=0.3, presence_penalty=0.7),
        "negative frequency": p(frequency_penalty=-0.5, presence_penalty=-1.5),
        "infinite product": p(frequency_penalty=3e38, presence_penalty=-3e38),
        **{f"{n}-grams": p(no_repeat_ngram_size=n) for n in (1, 2, 3, 9, 10, 17, 2**40)},
        "bias": p(logit_bias={token: (token % 7) * 0.5 - 1.5 for token in some}),
        "extreme bias": p(logit_bias={0: 3e38, vocab - 1: -3e38, vocab // 2: 1e-40}),
        "allowed": p(allowed_token_ids=[*some, *some[:3]], top_p=0.9),
        "one allowed": p(allowed_token_ids=[vocab - 1]),
        "none allowed": p(allowed_token_ids=[]),
        "bad words": p(bad_words_ids=[[0], [one, two], [0, one], [vocab - 1], [two, 0, one], list(range(vocab))[:60]]),
        "not yet the end": p(min_new_tokens=25, eos_token_ids=[0, vocab - 1, 0]),
        "everything": p(
            temperature=0.9,
            top_k=200,
            top_p=0.97,
            min_p=0.001,
            repetition_penalty=1.2,
            frequency_penalty=0.2,
            presence_penalty=0.1,
            no_repeat_ngram_size=3,
            logit_bias=dict.fromkeys(some[:20], 2.0),
            allowed_token_ids=range(vocab - vocab // 5),
            bad_words_ids=[[0], [one, two]],
            min_new_tokens=10,
            eos_token_ids=0,
        ),
        "greedy with bans": p(temperature=0, repetition_penalty=1.4, no_repeat_ngram_size=2, bad_words_ids=[[one]]),
    }
    return {name: SamplingParams(**options, seed=seed) for seed, (name, options) in enumerate(fields.items())}


def draws(count: int, seed: int = 0) -> list[int]:
    """64-bit integers to draw with, the extremes among them."""
    rng = np.random.default_rng(seed)
    bits = rng.integers(0, 2**64, count, dtype=np.uint64).tolist()
    return [0 if i % 7 == 3 else 2**64 - 1 if i % 7 == 5 else u for i, u in enumerate(bits)]


@functools.cache
def trace() -> tuple[torch.Tensor, torch.Tensor, list[int]]:
    """Real logits float16 [N, V], their histories int32 [N, L] right-padded with -1, and prompt lengths."""
    with np.load(Path(__file__).parent / "data" / "smollm2_trace.npz") as arrays:
        return (
            torch.from_numpy(arrays["logits"]),
            torch.from_numpy(arrays["histories"]),
            arrays["prompt_lengths"].tolist(),
        )

"""The metrics against loops written from the papers' formulas, hand-computed values and errors."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from pyllmdecode import metrics

SEQUENCES = st.lists(st.lists(st.integers(0, 4), max_size=14), min_size=1, max_size=5)
N = st.integers(1, 9)

NGRAM_METRICS = [lambda s: metrics.seq_rep_n(s, 2), lambda s: metrics.rep_n(s, 2), metrics.diversity, metrics.uniq_seq]
WINDOW_METRICS = [lambda s: metrics.rep_w(s, 2), lambda s: metrics.wrep_w(s, 2, s)]


def property_test(*strategies):
    # A deadline measures how busy the machine is, not the code.
    return lambda test: settings(deadline=None)(given(*strategies)(test))


@st.composite
def with_predictions(draw):
    sequences = draw(SEQUENCES)
    return sequences, [draw(st.lists(st.integers(0, 4), min_size=len(x), max_size=len(x))) for x in sequences]


def ngrams(sequence, n):
    return [tuple(sequence[i : i + n]) for i in range(len(sequence) - n + 1)]


def naive_seq_rep_n(sequences, n):
    shares = []
    for sequence in sequences:
        grams = ngrams(sequence, n)
        shares.append(1 - len(set(grams)) / len(grams) if grams else 0.0)
    return sum(shares) / len(shares)


def naive_rep_n(sequences, n):
    total = sum(len(ngrams(x, n)) for x in sequences)
    return 1 - sum(len(set(ngrams(x, n))) for x in sequences) / total if total else 0.0


def naive_windowed(sequences, w, predictions, only_wrong):
    hits = positions = 0
    for truth, predicted in zip(sequences, predictions, strict=True):
        for t in range(len(truth)):
            positions += 1
            previous = [truth[s] for s in range(len(truth)) if t - w <= s < t]
            if predicted[t] in previous and not (only_wrong and predicted[t] == truth[t]):
                hits += 1
    return hits / positions if positions else 0.0


@property_test(SEQUENCES, N)
def test_ngram_metrics_follow_the_formulas(sequences, n):
    assert metrics.seq_rep_n(sequences, n) == pytest.approx(naive_seq_rep_n(sequences, n))
    assert metrics.rep_n(sequences, n) == pytest.approx(naive_rep_n(sequences, n))
    expected = 1.0
    for size in (2, 3, 4):
        expected *= 1 - naive_rep_n(sequences, size)
    assert metrics.diversity(sequences) == pytest.approx(expected)
    assert metrics.uniq_seq(sequences) == len({token for x in sequences for token in x})


@property_test(with_predictions(), st.integers(1, 16))
def test_window_metrics_follow_the_formulas(pair, w):
    sequences, predictions = pair
    assert metrics.rep_w(sequences, w) == pytest.approx(naive_windowed(sequences, w, sequences, only_wrong=False))
    assert metrics.rep_w(sequences, w, predictions) == pytest.approx(
        naive_windowed(sequences, w, predictions, only_wrong=False)
    )
    assert metrics.wrep_w(sequences, w, predictions) == pytest.approx(
        naive_windowed(sequences, w, predictions, only_wrong=True)
    )


def test_long_sequences_with_large_ids_follow_the_formulas():
    ids = np.random.default_rng(0).integers(0, 30, size=(3, 400)) * (2**62 // 30)
    sequences = ids.tolist()
    for n in (1, 2, 3, 5, 8):
        assert metrics.rep_n(ids, n) == pytest.approx(naive_rep_n(sequences, n))
    assert metrics.rep_w(ids, 17) == pytest.approx(naive_windowed(sequences, 17, sequences, only_wrong=False))


@pytest.mark.parametrize(
    "predicted, w, rep, wrep",
    [
        # Truth 1 2 1 3 2. Window of 2 before each position: {}, {1}, {1,2}, {2,1}, {1,3}.
        ([1, 2, 1, 3, 2], 2, 1 / 5, 0.0),
        ([9, 1, 2, 2, 2], 2, 3 / 5, 3 / 5),
        ([9, 1, 1, 2, 2], 2, 3 / 5, 2 / 5),
        # Before position 4, the token 2 at position 1 is inside a window of 3, outside one of 2.
        ([9, 9, 9, 9, 2], 3, 1 / 5, 0.0),
        ([9, 9, 9, 9, 2], 2, 0.0, 0.0),
        # Neither the position itself nor a later one belongs to the window.
        ([1, 2, 9, 3, 9], 4, 0.0, 0.0),
    ],
)
def test_window_metrics_by_hand(predicted, w, rep, wrep):
    truth = [[1, 2, 1, 3, 2]]
    assert metrics.rep_w(truth, w, [predicted]) == pytest.approx(rep)
    assert metrics.wrep_w(truth, w, [predicted]) == pytest.approx(wrep)


def test_windows_do_not_cross_sequences():
    assert metrics.rep_w([[7, 8], [8, 7]], 5) == 0.0


def test_window_metrics_pool_positions_of_all_sequences():
    assert metrics.rep_w([[5, 5, 5, 5], [1, 2]], 1) == pytest.approx(3 / 6)


def test_corpus_sum_differs_from_mean_over_sequences():
    # 4 bigrams of which 1 unique, and 1 bigram of which 1 unique.
    sequences = [[5, 5, 5, 5, 5], [1, 2]]
    assert metrics.seq_rep_n(sequences, 2) == pytest.approx((3 / 4 + 0) / 2)
    assert metrics.rep_n(sequences, 2) == pytest.approx(1 - 2 / 5)


def test_ngrams_shared_between_sequences_are_not_duplicates():
    assert metrics.rep_n([[1, 2, 3], [1, 2, 3]], 2) == 0.0
    assert metrics.uniq_seq([[1, 2, 3], [1, 2, 3]]) == 3


def test_diversity_by_hand():
    # 1 2 1 2 1: bigrams 2 of 4 unique, trigrams 2 of 3, 4-grams 2 of 2.
    assert metrics.diversity([[1, 2, 1, 2, 1]]) == pytest.approx(0.5 * (2 / 3) * 1.0)


@property_test(st.lists(st.integers(0, 4), max_size=14), N)
def test_seq_rep_n_of_one_sequence_is_rep_n(sequence, n):
    assert metrics.seq_rep_n([sequence], n) == metrics.rep_n([sequence], n)


@property_test(SEQUENCES, st.randoms(use_true_random=False))
def test_order_of_sequences_does_not_matter(sequences, random):
    shuffled = random.sample(sequences, len(sequences))
    for metric in NGRAM_METRICS + WINDOW_METRICS:
        assert metric(shuffled) == metric(sequences)


@property_test(with_predictions(), N)
def test_ranges_and_return_types(pair, k):
    sequences, predictions = pair
    rep = metrics.rep_w(sequences, k, predictions)
    wrep = metrics.wrep_w(sequences, k, predictions)
    values = [metrics.seq_rep_n(sequences, k), metrics.rep_n(sequences, k), rep, wrep, metrics.diversity(sequences)]
    assert all(type(value) is float and 0.0 <= value <= 1.0 for value in values)
    assert wrep <= rep <= metrics.rep_w(sequences, k + 1, predictions)
    assert metrics.wrep_w(sequences, k, sequences) == 0.0
    assert metrics.diversity(sequences) > 0.0
    assert type(metrics.uniq_seq(sequences)) is int


@property_test(st.integers(1, 40), N)
def test_one_token_repeated(length, k):
    grams = max(length - k + 1, 0)
    expected = (grams - 1) / grams if grams else 0.0
    assert metrics.seq_rep_n([[7] * length], k) == pytest.approx(expected)
    assert metrics.rep_w([[7] * length], k) == pytest.approx((length - 1) / length)
    assert metrics.uniq_seq([[7] * length]) == 1


@property_test(st.lists(st.integers(0, 1000), unique=True, max_size=30), N)
def test_distinct_tokens_repeat_nothing(sequence, k):
    batch = [sequence]
    assert metrics.seq_rep_n(batch, k) == metrics.rep_n(batch, k) == metrics.rep_w(batch, k) == 0.0
    assert metrics.diversity(batch) == 1.0


def test_sequences_without_ngrams_repeat_nothing():
    for batch in ([[]], [[], []], [[1]], torch.full((2, 3), -1)):
        assert metrics.seq_rep_n(batch, 4) == metrics.rep_n(batch, 4) == 0.0
        assert metrics.diversity(batch) == 1.0
        assert metrics.rep_w(batch, 3) == metrics.wrep_w(batch, 3, batch) == 0.0
    assert metrics.uniq_seq([[]]) == 0
    assert metrics.seq_rep_n([[1], [3, 3, 3]], 2) == pytest.approx(0.25)


@property_test(SEQUENCES)
def test_every_form_of_input_gives_the_same(sequences):
    width = max(map(len, sequences)) + 1
    padded = [x + [-1] * (width - len(x)) for x in sequences]
    forms = [
        [torch.tensor(x, dtype=torch.int32) for x in sequences],
        [np.array(x, dtype=np.uint8) for x in sequences],
        tuple(tuple(np.int64(token) for token in x) for x in sequences),
        torch.tensor(padded),
        np.array(padded, dtype=np.int16),
    ]
    for metric in NGRAM_METRICS + WINDOW_METRICS:
        assert [metric(form) for form in forms] == [metric(sequences)] * len(forms)


@property_test(with_predictions(), st.integers(-1, 4))
def test_predictions_at_padded_positions_are_ignored(pair, filler):
    sequences, predictions = pair
    width = max(map(len, sequences)) + 1
    truth = torch.tensor([x + [-1] * (width - len(x)) for x in sequences])
    guess = np.array([p + [filler] * (width - len(p)) for p in predictions])
    for metric in (metrics.rep_w, metrics.wrep_w):
        expected = metric(sequences, 3, predictions=predictions)
        assert metric(truth, 3, predictions=guess) == expected
        assert metric(truth, 3, predictions=predictions) == expected


@property_test(SEQUENCES)
def test_input_is_not_changed(sequences):
    tensors = [torch.tensor(x, dtype=torch.long) for x in sequences]
    copies = [x.clone() for x in tensors]
    for metric in NGRAM_METRICS + WINDOW_METRICS:
        metric(tensors)
    assert all(torch.equal(x, copy) for x, copy in zip(tensors, copies, strict=True))


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_tensors_on_a_device():
    batch = torch.tensor([[1, 2, 1, 2, 1], [3, 3, 3, -1, -1]])
    for metric in NGRAM_METRICS + WINDOW_METRICS:
        assert metric(batch.cuda()) == metric([[1, 2, 1, 2, 1], [3, 3, 3]])
        assert metric([row[:3].cuda() for row in batch]) == metric(batch[:, :3])


BAD_BATCHES = [
    ([1, 2, 3], TypeError, r"sequences: got \[1, 2, 3\], one flat sequence; .*wrap .* in a list"),
    (torch.tensor([1, 2]), TypeError, r"sequences: got \[1, 2\], one flat sequence; accepted"),
    ([torch.tensor(1)], TypeError, "one flat sequence; accepted: a sequence of token id seq"),
    (3, TypeError, "sequences: got 3; accepted: a sequence of token id sequences"),
    ("abc", TypeError, "sequences: got 'abc'; accepted"),
    ({1: [2]}, TypeError, r"sequences: got \{1: \[2\]\}; accepted"),
    (None, TypeError, "sequences: got None; accepted"),
    ([], ValueError, "sequences: got 0 sequences; accepted: at least 1"),
    (torch.zeros(0, 4, dtype=torch.long), ValueError, "sequences: got 0 sequences; accepted"),
    ([[1], 2], TypeError, r"sequences\[1\]: got 2; accepted: a sequence of integers"),
    (["ab"], TypeError, r"sequences\[0\]: got 'ab'; accepted: a sequence of integers"),
    ([[1], [2, True]], TypeError, r"sequences\[1\]: got True at position 1; accepted: .*integers"),
    ([[1, 2.0]], TypeError, r"sequences\[0\]: got 2.0 at position 1; accepted: .*integers"),
    (torch.ones(2, 2), TypeError, r"sequences\[0\]: got 1.0 at position 0; accepted"),
    (np.ones((2, 2), dtype=bool), TypeError, r"sequences\[0\]: got True at position 0; accepted"),
    (torch.ones(2, 1, 2, dtype=torch.long), TypeError, r"sequences\[0\]: got \[1, 1\] at position"),
    (
        [[1], [2], [0] * 7 + [-5]],
        ValueError,
        r"sequences\[2\]: got token id -5 at position 7; accepted: ids of at least 0",
    ),
    ([[1, -1]], ValueError, r"sequences\[0\]: got token id -1 at position 1; .*right padding"),
    (
        torch.tensor([[1, 2], [-1, 3]]),
        ValueError,
        r"sequences\[1\]: got token id -1 at position 0; accepted: ids of at least 0",
    ),
    ([[1, 2**63]], ValueError, rf"sequences\[0\]: got {2**63}; accepted: ids below 2\*\*63"),
]


@pytest.mark.parametrize("batch, error, message", BAD_BATCHES)
def test_bad_batches(batch, error, message):
    for metric in NGRAM_METRICS + WINDOW_METRICS:
        with pytest.raises(error, match=message):
            metric(batch)


@pytest.mark.parametrize(
    "value, error, got",
    [
        (0, ValueError, "0"),
        (-3, ValueError, "-3"),
        (True, TypeError, r"True \(bool\)"),
        (2.0, TypeError, r"2.0 \(float\)"),
        (None, TypeError, r"None \(NoneType\)"),
    ],
)
def test_bad_n_and_w(value, error, got):
    accepted = "; accepted: an integer of at least 1$"
    for metric in (metrics.seq_rep_n, metrics.rep_n):
        with pytest.raises(error, match=f"^n: got {got}{accepted}"):
            metric([[1]], value)
    for metric in (metrics.rep_w, metrics.wrep_w):
        with pytest.raises(error, match=f"^w: got {got}{accepted}"):
            metric([[1]], value, [[1]])


def test_numpy_integers_and_huge_n_and_w():
    assert metrics.rep_n([[3, 3, 3]], np.int32(2)) == pytest.approx(0.5)
    assert metrics.rep_n([[3, 3, 3]], 10**30) == 0.0
    assert metrics.rep_w([[3, 3, 3]], 10**30) == pytest.approx(2 / 3)


@pytest.mark.parametrize(
    "predictions, error, message",
    [
        ([[1, 2]], ValueError, "predictions: got 1 sequences; accepted: 2"),
        ([[1, 2], [1, 2]], ValueError, r"predictions\[1\]: got 2 ids; accepted: 1"),
        ([[1, 2], [-2]], ValueError, r"predictions\[1\]: got token id -2 at position 0; accepted"),
        ([[1, 2.5], [1]], TypeError, r"predictions\[0\]: got 2.5 at position 1; accepted"),
        ([1, 2], TypeError, r"predictions: got \[1, 2\], one flat sequence; accepted"),
    ],
)
def test_bad_predictions(predictions, error, message):
    for metric in (metrics.rep_w, metrics.wrep_w):
        with pytest.raises(error, match=message):
            metric([[1, 2], [3]], 1, predictions)


def test_predictions_must_cover_a_padded_batch():
    truth = torch.tensor([[1, 2], [3, -1]])
    with pytest.raises(ValueError, match=r"predictions\[0\]: got token id -1 at position 1"):
        metrics.rep_w(truth, 1, torch.tensor([[1, -1], [3, -1]]))
    with pytest.raises(TypeError, match="predictions: got None; accepted"):
        metrics.wrep_w(truth, 1, None)

"""Top-p on rows of every flatness. A fast backend may guess where the nucleus ends, from a few tokens; whatever it
guesses, and however unlike the rest those tokens are, the cut must be the reference's."""

import pytest
import torch

import pyllmdecode as pld

SHARES = (0.05, 0.5, 0.9, 0.95, 0.99, 0.9999)
LANES = (4, 8, 16)


def normal(vocab, scale, seed):
    return torch.randn(vocab, generator=torch.Generator().manual_seed(seed)) * scale


def sampled_places(vocab, lanes):
    """Where the native backend looks for its sample (csrc/cpu/guess.h): a row built around it is its worst case."""
    full, vectors, steps = vocab // 1024, 4096 // lanes, 1024 // lanes
    first = [v * full // vectors * 1024 + v * 37 % steps * lanes for v in range(vectors)]
    return (torch.tensor(first)[:, None] + torch.arange(lanes)).flatten()


def flat_rows(vocab):
    rows = {f"normal times {scale}": normal(vocab, scale, 1) for scale in (0, 1e-6, 0.3, 1, 1.5, 2, 2.5, 3, 4, 8)}
    rows["few values"] = (normal(vocab, 1, 2) * 3).round()
    rows["half far below"] = normal(vocab, 1, 3) - (torch.arange(vocab) % 2) * 30.0
    rows["one above all"] = normal(vocab, 1, 4).index_fill(0, torch.tensor([vocab // 3]), 9.0)
    rows["half minus infinity"] = normal(vocab, 1, 5).masked_fill(torch.arange(vocab) < vocab // 2, -torch.inf)
    for lanes in LANES:
        for offset in (-4.0, -0.5, 0.5, 4.0, -torch.inf):
            rows[f"sample of {lanes} lanes {offset}"] = normal(vocab, 1, 6).index_add(
                0, sampled_places(vocab, lanes), torch.full((4096,), offset)
            )
    return rows


@pytest.mark.parametrize("vocab", [8192, 9001, 20000])
@pytest.mark.parametrize("share", SHARES)
def test_flat_rows(fast, vocab, share):
    names = fast.some(list(flat_rows(vocab)), 3)
    names = names if not fast.interpreted else names[: 1 if vocab > 9001 or fast.variant == "small" else 3]
    rows = {name: row for name, row in flat_rows(vocab).items() if name in names}
    logits = torch.stack(list(rows.values()))
    history = [[i * 7 % vocab for i in range(50 * (row % 3))] for row in range(len(rows))]
    params = [
        pld.SamplingParams(temperature=1 + 0.5 * (row % 2), top_p=share, repetition_penalty=1.3, seed=row)
        for row in range(len(rows))
    ]
    expected = pld.sample(logits, params, history, backend="reference")
    got = fast.sample(logits, params, history)
    for row, name in enumerate(rows):
        assert got.kept[row] == expected.kept[row], name
        assert got.token_ids[row] == expected.token_ids[row], name
        assert got.status[row] == expected.status[row] == 0, name


def test_min_p_inside_and_above_a_flat_nucleus(fast):
    """Min-p may cut where top-p's candidates are, or far above them."""
    logits = torch.stack([normal(20000 if not fast.interpreted else 8500, 1, seed) for seed in range(12)])
    params = [pld.SamplingParams(top_p=0.9, min_p=0.005 * 2**row / 4, seed=row) for row in range(8)]
    params += [pld.SamplingParams(top_p=0.9, min_p=min_p, seed=9) for min_p in (0.3, 0.6, 0.9, 1.0)]
    rows = fast.some(range(12), 3)
    logits, params = logits[list(rows)], [params[row] for row in rows]
    expected = pld.sample(logits, params, backend="reference", logprobs="processed", top_logprobs=20)
    got = fast.sample(logits, params, logprobs="processed", top_logprobs=20)
    assert torch.equal(got.token_ids, expected.token_ids) and torch.equal(got.kept, expected.kept)
    assert torch.equal(got.top_ids, expected.top_ids)
    assert torch.allclose(got.top_logprobs, expected.top_logprobs, atol=1e-5)

"""The code that was published with each loss: the same value where it is right, and cases in which it is not.

What each repository computes is stated here in words of our own, with the file in which it stands.
"""

import pytest
import torch
from plain import IGNORED, ditto, scalegrad, sequence_unlikelihood, simctg, unlikelihood

from pyllmdecode import losses

PAD = 0


def logits_of(batch, length, vocab=7, seed=0):
    return torch.randn(batch, length, vocab, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def mean(rows):
    return sum(rows.values()) / len(rows)


def candidate_penalty(logits, targets):
    """facebookresearch/unlikelihood_training, candidate_penalty_ce_loss.py: one flat sequence, with padding in it."""
    log_p, flat = logits.flatten(0, 1).log_softmax(1), targets.flatten().tolist()
    total = 0.0
    for t, y in enumerate(flat):
        candidates = {y if c == y else c for c in flat[:t]} - {y} | {PAD}  # the current target is replaced by padding
        total += -log_p[t, y] if y != PAD else 0.0
        total += sum(-torch.log((1 - log_p[t, c].exp()).clamp(min=1e-5)) for c in candidates)
    return total / sum(y != PAD for y in flat)


def without_padding(logits, targets):
    """The same, with logits that leave padding no probability, so that it costs nothing as a candidate."""
    logits = logits.clone()
    logits[..., PAD] = -torch.inf
    return logits, targets.masked_fill(targets == PAD, IGNORED)


def test_unlikelihood_of_one_full_sequence():
    targets = torch.tensor([[1, 2, 1, 3, 3, 2]])
    logits, ids = without_padding(logits_of(1, 6), targets)
    assert torch.allclose(losses.unlikelihood(logits, ids), candidate_penalty(logits, targets))


@pytest.mark.parametrize("targets", [[[1, 2, 3], [4, 5, 6]], [[1, 2, 0], [3, 0, 0]]], ids=["sequences", "padding"])
def test_unlikelihood_leaks(targets):
    """Tokens of other sequences became candidates, and places that are padding had a loss."""
    targets = torch.tensor(targets)
    logits, ids = without_padding(logits_of(*targets.shape), targets)
    found = losses.unlikelihood(logits, ids)
    assert torch.allclose(found, mean(unlikelihood(logits, ids)))
    assert candidate_penalty(logits, targets) > found + 0.01


def test_padding_is_no_candidate():
    """Nor where the model gives its id a probability: it may be the id of a real token."""
    targets = torch.tensor([[1, 2, 0]])
    found = losses.unlikelihood(logits_of(1, 3), targets.masked_fill(targets == PAD, IGNORED))
    assert candidate_penalty(logits_of(1, 3), targets) > found + 0.01


def test_unlikelihood_learns_where_it_matters_most():
    """Where a repetition is certain, the published clamp at 1e-5 has no gradient; here it is at its largest."""
    logits = torch.tensor([[[0.0, 0.0, 0.0], [20.0, 0.0, 0.0]]], requires_grad=True)
    targets = torch.tensor([[0, 1]])
    losses.unlikelihood(logits, targets, reduction="sum").backward()
    assert abs(logits.grad[0, 1, 0] - 2) < 1e-4  # one from the cross-entropy, one from the unlikelihood


def last_gram(row, n, start):
    """What `ngram_repeat_mask` marks of a continuation: it stops before the last n-gram."""
    seen, marked = set(), set()
    for i in range(start, len(row) - n):
        gram = tuple(row[i : i + n])
        marked |= set(range(i, i + n)) if gram in seen else set()
        seen.add(gram)
    return marked


def test_the_last_ngram_counts():
    """facebookresearch/unlikelihood_training, sequence_penalty_loss.py, forgets a repetition at the very end."""
    ids = torch.tensor([[9, 1, 2, 3, 4, 5, 1, 2, 3, 4]])
    logits = logits_of(1, 10, vocab=10)
    found = losses.sequence_unlikelihood(logits, ids, torch.tensor([1]), reduction="none")
    assert found[0].nonzero()[:, 0].tolist() == [6, 7, 8, 9] and last_gram(ids[0].tolist(), 4, 1) == set()
    assert torch.allclose(found.sum() / 9, mean(sequence_unlikelihood(logits, ids, [1])))
    longer = torch.cat([ids, torch.tensor([[8]])], 1)
    found = losses.sequence_unlikelihood(logits_of(1, 11, vocab=10), longer, torch.tensor([1]), reduction="none")
    assert set(found[0].nonzero()[:, 0].tolist()) == last_gram(longer[0].tolist(), 4, 1)  # the same, where it is right


def penalised_accumulated(logits, ids, size, prefix, penalty):
    """Jxu-Thu/DITTO, repetetion_penalty_accum_loss.py, loss type nl: places are counted in targets from `prefix` on."""
    p = logits[:, :-1].softmax(2).gather(2, ids[:, 1:, None])[0, :, 0]
    places = range(prefix + size, len(p))
    return {(0, i + 1): -torch.log(1 - (p[i] - penalty * p[i - size].detach()).abs()) for i in places}


def test_ditto_counts_the_first_token_too():
    """The published mask is one place late: it leaves out the first token of the second repetition."""
    data = losses.ditto_repeat([1, 2, 3], 12, prefix=[4, 5])
    ids, given = torch.tensor([data.token_ids]), (torch.tensor([3]), torch.tensor([2]))
    logits = logits_of(1, 12)
    rows, published = ditto(logits, ids, *given), penalised_accumulated(logits, ids, 3, 2, 0.5)
    found = losses.ditto(logits, ids, *given, reduction="none")
    assert rows.keys() - published.keys() == {(0, 5)} and not published.keys() - rows.keys()
    assert all(torch.allclose(found[place], value) for place, value in published.items()) and found[0, 5] > 0


def test_ditto_data_of_any_script():
    """The published data needs sentences that end in "."; here a sentence is what it is said to be."""
    data = losses.ditto_repeat(list("你好，世界。".encode()), 20)
    assert bytes(data.token_ids).decode(errors="ignore").startswith("你好，世界。") and len(data.token_ids) == 20
    assert losses.ditto_repeat([7], 5, prefix=[1, 2]) == ([1, 2, 7, 7, 7], 1, 2)


def scaled_and_smoothed(logits, targets):
    """shawnlimn/ScaleGrad, run_gpt2.py: 1e-8 is added to each scaled probability, of the first sequence's mask."""
    total, targets = 0.0, targets.tolist()
    for t, y in enumerate(targets[0]):
        weight = torch.full(logits.shape[2:], 0.2, dtype=logits.dtype)
        weight[targets[0][:t]] = 1.0
        q = weight * logits[0, t].softmax(0) + 1e-8
        total -= (q / q.sum()).log()[y]
    return total / len(targets[0])


def test_scalegrad_of_one_sequence():
    targets = torch.tensor([[1, 2, 1, 0, 0, 2]])
    logits = logits_of(1, 6)
    assert torch.allclose(losses.scalegrad(logits, targets), scaled_and_smoothed(logits, targets), atol=1e-6)


def test_scalegrad_of_an_improbable_target():
    """The published 1e-8 takes the gradient away where a token has less; in float16 it is 0, and the loss infinite."""
    targets, logits = torch.tensor([[1]]), torch.tensor([[[30.0, 0.0, 0.0]]], dtype=torch.float64, requires_grad=True)
    found = losses.scalegrad(logits, targets)
    assert torch.allclose(found, mean(scalegrad(logits, targets)))
    assert scaled_and_smoothed(logits.detach(), targets) < found - 10
    assert abs(torch.autograd.grad(found, logits)[0][0, 0, 1] + 1) < 1e-6
    assert abs(torch.autograd.grad(scaled_and_smoothed(logits, targets), logits)[0][0, 0, 1]) < 1e-4


def contrastive(hidden, ids):
    """yxuansu/SimCTG, loss_func.py: padding is told by its id, and is taken to stand at the end."""
    unit = hidden / hidden.norm(dim=2, keepdim=True)
    cosines = unit @ unit.transpose(1, 2)
    total, pairs = 0.0, 0
    for b, row in enumerate(ids.tolist()):
        count = sum(token != PAD for token in row)
        some = torch.relu(0.5 - 1 + cosines[b, :count, :count])
        total += some.sum() - some.diagonal().sum()
        pairs += count * (count - 1)
    return total / torch.tensor(pairs, dtype=torch.float64)


def test_simctg_where_it_is_right_and_where_not():
    hidden = logits_of(2, 4, 3, seed=3).abs()
    padded, real = torch.tensor([[1, 2, 3, 4], [5, 6, 0, 0]]), torch.tensor([[1, 1, 1, 1], [1, 1, 0, 0]])
    assert torch.allclose(losses.simctg(hidden, real), contrastive(hidden, padded))
    # On the left, where generation has it, or an end-of-text inside that has the id of padding:
    left, real = torch.tensor([[0, 0, 5, 6], [1, 0, 3, 4]]), torch.tensor([[0, 0, 1, 1], [1, 1, 1, 1]])
    rows = simctg(hidden, real)
    assert torch.allclose(losses.simctg(hidden, real), sum(rows.values()) / 14)
    assert not torch.allclose(contrastive(hidden, left), losses.simctg(hidden, real), rtol=0.01)
    # A vector of zeros, and a sequence of one token:
    hidden[0, 1] = 0.0
    assert contrastive(hidden, padded).isnan() and losses.simctg(hidden, real).isfinite()
    assert contrastive(hidden[:, 2:3], padded[:, :1]).isnan() and losses.simctg(hidden[:, :1], real[:, :1]) == 0

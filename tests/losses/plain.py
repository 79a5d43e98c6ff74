"""Each loss as its formula reads, token by token in float64, and generated batches that all of them take."""

import random
from dataclasses import dataclass
from functools import partial

import torch

from pyllmdecode import losses

IGNORED = -100


def cross_entropy(log_p, target, smoothing):
    return -(1 - smoothing) * log_p[target] - (smoothing * log_p.mean() if smoothing else 0.0)


def unlikelihood(logits, targets, alpha=1.0, label_smoothing=0.0):
    rows = {}
    for b, row in enumerate(targets.tolist()):
        for t, y in enumerate(row):
            if y == IGNORED:
                continue
            log_p = logits[b, t].log_softmax(0)
            candidates = {c for c in row[:t] if c not in (y, IGNORED)}
            unlikely = [torch.log(1 - log_p[c].exp()) for c in sorted(candidates)]
            rows[b, t] = cross_entropy(log_p, y, label_smoothing) - alpha * sum(unlikely)
    return rows


def scalegrad(logits, targets, gamma=0.2, label_smoothing=0.0):
    rows = {}
    for b, row in enumerate(targets.tolist()):
        for t, y in enumerate(row):
            if y != IGNORED:
                weight = torch.full(logits.shape[2:], gamma, dtype=torch.float64)
                weight[[c for c in row[:t] if c != IGNORED]] = 1.0
                q = weight * logits[b, t].softmax(0)
                rows[b, t] = cross_entropy((q / q.sum()).log(), y, label_smoothing)
    return rows


def sequence_unlikelihood(logits, token_ids, prompt_lengths, n=4):
    rows = {}
    for b, row in enumerate(token_ids.tolist()):
        first = int(prompt_lengths[b])
        marked, seen = set(), set()
        for i in range(first, len(row) - n + 1):
            gram = tuple(row[i : i + n])
            if IGNORED not in gram:
                marked |= set(range(i, i + n)) if gram in seen else set()
                seen.add(gram)
        for i in range(first, len(row)):
            if row[i] != IGNORED:
                p = logits[b, i - 1].softmax(0)[row[i]]
                rows[b, i] = -torch.log(1 - p) if i in marked else 0.0 * p
    return rows


def ditto(logits, token_ids, sentence_lengths, prefix_lengths, penalty=0.5):
    rows = {}
    for b, row in enumerate(token_ids.tolist()):
        size, first = int(sentence_lengths[b]), int(prefix_lengths[b])
        for i in range(max(first + size, size + 1), len(row)):
            if row[i] != IGNORED:
                now = logits[b, i - 1].softmax(0)[row[i]]
                before = logits[b, i - size - 1].softmax(0)[row[i]].detach()
                rows[b, i] = -torch.log(1 - (now - penalty * before).abs())
    return rows


def simctg(hidden, mask, margin=0.5):
    rows = {}
    for b in range(len(hidden)):
        places = mask[b].nonzero()[:, 0].tolist()
        for i in places:
            partners = [hidden[b, j] for j in places if j != i]
            cosines = [torch.cosine_similarity(hidden[b, i], other, dim=0, eps=0) for other in partners]
            rows[b, i] = sum(torch.relu(margin - 1 + cosine) for cosine in cosines) + 0 * hidden[b, i].sum()
    return rows


def reduced(rows, shape, reduction, over=None):
    if reduction == "none":
        result = torch.zeros(shape, dtype=torch.float64)
        for place, value in rows.items():
            result[place] = value
        return result
    total = sum(rows.values(), torch.zeros((), dtype=torch.float64))
    return total / max(over or len(rows), 1) if reduction == "mean" else total


@dataclass
class Case:
    """A loss with arguments: of logits, of hidden states, and as it is written."""

    name: str
    of_logits: object
    of_linear: object
    plain: object  # logits -> rows

    def __str__(self):
        return self.name


def batch(name, batch, length, vocab, seed, device="cpu", **options) -> Case:
    """A loss of random data, in which tokens repeat and some are ignored."""
    draw = random.Random(f"{name} {batch} {length} {vocab} {seed}")
    kinds = min(vocab, draw.choice([2, 5, vocab]))
    ids = torch.tensor([[draw.randrange(kinds) for _ in range(length)] for _ in range(batch)]).view(batch, length)
    end = [draw.randint(0, length) if seed % 3 else length for _ in range(batch)]
    for b in range(batch):
        ids[b, end[b] :] = IGNORED
    if name in ("unlikelihood", "scalegrad"):
        ids[torch.tensor([[draw.random() < 0.2 for _ in range(length)] for _ in range(batch)]).view(ids.shape)] = (
            IGNORED
        )
        given = (ids,)
    elif name == "sequence_unlikelihood":
        given = ids, torch.tensor([draw.randint(1, length) for _ in range(batch)])
    else:
        sizes = [draw.randint(1, max(length // 2, 1)) for _ in range(batch)]
        prefixes = [draw.randint(0, length // 3) for _ in range(batch)]
        for b, (size, first) in enumerate(zip(sizes, prefixes)):
            for i in range(first + size, end[b]):
                ids[b, i] = ids[b, i - size]
        given = ids, torch.tensor(sizes), torch.tensor(prefixes)
    given = tuple(one.to(device) for one in given)
    of_logits, of_linear = getattr(losses, name), getattr(losses, f"linear_{name}")
    return Case(
        name,
        lambda logits, **more: of_logits(logits, *given, **options, **more),
        lambda hidden, weight, bias=None, **more: of_linear(hidden, weight, *given, bias=bias, **options, **more),
        partial(_with, globals()[name], given, options),
    )


def _with(function, given, options, logits):
    return function(logits, *given, **options)


VOCABULARY = {
    "unlikelihood": [{}, {"alpha": 0.3}, {"alpha": 0.0, "label_smoothing": 0.1}, {"label_smoothing": 1.0}],
    "scalegrad": [{}, {"gamma": 1.0}, {"gamma": 0.5, "label_smoothing": 0.2}],
    "sequence_unlikelihood": [{"n": 2}, {"n": 1}, {"n": 4}],
    "ditto": [{}, {"penalty": 0.9}, {"penalty": 0.0}, {"penalty": 1.0}],
}
VARIANTS = [(name, options) for name, several in VOCABULARY.items() for options in several]

"""A program: the losses on one of several ranks, each with a part of the vocabulary; prints what it found as JSON.

python tests/losses/ranks.py RANK FILE       FILE: where the ranks meet
"""

import json
import sys

import torch
import torch.distributed as dist

from pyllmdecode import losses

SIZES = (5, 1, 7)  # tokens of each rank
INF = float("inf")


def cases():
    generator = torch.Generator().manual_seed(0)
    vocab = sum(SIZES)
    logits = torch.randn(2, 6, vocab, generator=generator, dtype=torch.float64) * 2
    logits[0, 0, 3] = logits[0, 0, 11] = 7.0  # the largest on two ranks
    hidden, weight, bias = (torch.randn(*shape, generator=generator, dtype=torch.float64) for shape in
                            ((2, 6, 3), (vocab, 3), (vocab,)))  # fmt: skip
    targets = torch.randint(0, vocab, (2, 6), generator=generator)
    targets[:, 4:] = targets[:, :2]
    targets[1, 1] = -100
    flat, tokens = logits[0], targets[0]
    kept = [sorted({int(token), 2, 5, 9}) for token in tokens]
    mask = torch.zeros(6, vocab, dtype=torch.bool)
    for row, ids in enumerate(kept):
        mask[row, ids] = True
    scales = torch.linspace(0.5, 2, 6, dtype=torch.float64)
    whole = {
        "unlikelihood": (losses.unlikelihood, logits, (targets,), {"label_smoothing": 0.1}),
        "scalegrad": (losses.scalegrad, logits, (targets,), {"label_smoothing": 0.1, "reduction": "none"}),
        "sequence": (losses.sequence_unlikelihood, logits, (targets, torch.tensor([1, 2])), {"n": 1}),
        "ditto": (losses.ditto, logits[:1], (tokens[None] * 0, torch.tensor([2]), torch.tensor([1])), {}),
        "all": (losses.replay_logprobs, flat, (tokens,), {"temperature": 0.7}),
        "ids": (losses.replay_logprobs, flat, (tokens,), {"kept_ids": kept, "temperature": scales}),
        "mask": (losses.replay_logprobs, flat, (tokens,), {"bitmask": mask, "temperature": scales}),
    }
    linear = {
        "unlikelihood of hidden": (losses.linear_unlikelihood, hidden, (targets,), {}),
        "ids of hidden": (losses.linear_replay_logprobs, hidden[0], (tokens,), {"kept_ids": kept}),
    }
    return whole, linear, weight, bias


def part(tensor, dim, begin, size):
    return tensor.narrow(dim, begin, size).contiguous().requires_grad_()


def run(rank, group):
    """rank None: all of it in one piece."""
    begin, size = (0, sum(SIZES)) if rank is None else (sum(SIZES[:rank]), SIZES[rank])
    whole, linear, weight, bias = cases()
    found = {}
    for name, (loss, logits, given, options) in whole.items():
        options = dict(options)
        if "bitmask" in options:
            options["bitmask"] = options["bitmask"][:, begin : begin + size]
        mine = part(logits, logits.dim() - 1, begin, size)
        value = loss(mine, *given, group=group, **options)
        (value * torch.arange(1, value.numel() + 1).view(value.shape)).sum().backward()
        found[name] = value.tolist(), mine.grad.tolist()
    for name, (loss, hidden, given, options) in linear.items():
        states, w, b = hidden.clone().requires_grad_(), part(weight, 0, begin, size), part(bias, 0, begin, size)
        value = loss(states, w, *given, bias=b, group=group, **options)
        value.sum().backward()
        found[name] = value.tolist(), states.grad.tolist(), w.grad.tolist(), b.grad.tolist()
    return found


if __name__ == "__main__":
    rank = int(sys.argv[1])
    dist.init_process_group("gloo", init_method=f"file://{sys.argv[2]}", rank=rank, world_size=len(SIZES))
    print(json.dumps(run(rank, dist.group.WORLD)))
    dist.destroy_process_group()

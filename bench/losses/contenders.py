"""The losses, each as pyllmdecode has it and as plain PyTorch would write it, over one set of inputs."""

import torch
import torch.nn.functional as F

import pyllmdecode as pld
from pyllmdecode import losses

VOCAB, WIDTH, LENGTH = 49152, 576, 512  # of SmolLM2; sequences of that many tokens
PARAMS = pld.SamplingParams(temperature=0.8, top_k=50, top_p=0.95)
PENALISED = pld.SamplingParams(temperature=0.8, top_p=0.95, repetition_penalty=1.2)


class Inputs:
    """tokens: how many, in sequences of LENGTH. Targets repeat as those of a text do: a third of them are new."""

    def __init__(self, tokens: int, device: str = "cpu"):
        torch.manual_seed(0)
        self.shape = tokens // LENGTH, LENGTH
        self.hidden = torch.randn(*self.shape, WIDTH, device=device, requires_grad=True)
        self.weight = (torch.randn(VOCAB, WIDTH, device=device) * 0.12).requires_grad_()
        self.targets = (torch.rand(self.shape, device=device) ** 4 * 4000).long()
        # Fifty different tokens, the target among them.
        begins = torch.randint(0, VOCAB, (tokens, 1), device=device)
        self.kept = (begins + torch.arange(50, device=device) * 983) % VOCAB
        missing = (self.kept != self.targets.view(-1, 1)).all(1)
        self.kept[missing, 0] = self.targets.flatten()[missing]
        self.histories = [self.targets.flatten()[max(n - 200, 0) : n] for n in range(tokens)]

    def made(self) -> torch.Tensor:
        """Logits [B, L, V] as of a model, which require a gradient."""
        with torch.no_grad():
            logits = self.hidden @ self.weight.T
        return logits.requires_grad_()


def plain_unlikelihood(logits, targets):
    """As it is usually written: of whole log-probabilities, with a mask [B, L, V] of the candidates."""
    log_p = logits.float().log_softmax(-1)
    ce = F.nll_loss(log_p.flatten(0, 1), targets.flatten())
    seen = F.one_hot(torch.zeros_like(targets), 1).new_zeros(logits.shape, dtype=torch.bool)
    for t in range(1, targets.shape[1]):
        seen[:, t] = seen[:, t - 1].scatter(1, targets[:, t - 1, None], True)
    seen.scatter_(2, targets[..., None], False)
    return ce - (1 - log_p.exp()).clamp(min=1e-20).log().masked_fill(~seen, 0).sum() / targets.numel()


def plain_replay(logits, targets, kept):
    """As it is usually written: everything else to -inf, then the log-softmax."""
    mask = torch.ones_like(logits, dtype=torch.bool).scatter(1, kept.clamp(min=0), False)
    return (logits / 0.8).masked_fill(mask, -torch.inf).log_softmax(1).gather(1, targets[:, None]).sum()


def of_logits(inputs: Inputs) -> dict:
    """name -> a loss of logits [B, L, V]."""
    ids, flat = inputs.targets, inputs.targets.flatten()
    period = torch.full((len(ids),), 20)
    repeated = ids[:, :20].repeat(1, LENGTH // 20 + 1)[:, :LENGTH]
    rows = {"kept_ids": inputs.kept, "temperature": 0.8}
    return {
        "cross-entropy, torch": lambda x: F.cross_entropy(x.flatten(0, 1), flat),
        "unlikelihood": lambda x: losses.unlikelihood(x, ids),
        "unlikelihood, plain": lambda x: plain_unlikelihood(x, ids),
        "scalegrad": lambda x: losses.scalegrad(x, ids),
        "ditto": lambda x: losses.ditto(x, repeated, period.to(x.device), period.to(x.device) * 0),
        "replay of kept ids": lambda x: losses.replay_logprobs(x.flatten(0, 1), flat, **rows).sum(),
        "replay of kept ids, plain": lambda x: plain_replay(x.flatten(0, 1), flat, inputs.kept),
        "replay of top-k and top-p": lambda x: losses.replay_logprobs(x.flatten(0, 1), flat, params=PARAMS).sum(),
        "replay of top-p and a penalty": lambda x: losses.replay_logprobs(
            x.flatten(0, 1), flat, params=PENALISED, histories=inputs.histories
        ).sum(),
    }


def of_hidden(inputs: Inputs) -> dict:
    """name -> a loss of hidden states and the weight."""
    ids, flat = inputs.targets, inputs.targets.flatten()
    rows = {"kept_ids": inputs.kept, "temperature": 0.8}
    return {
        "cross-entropy, torch": lambda h, w: F.cross_entropy((h @ w.T).flatten(0, 1), flat),
        "cross-entropy, fused": lambda h, w: losses.linear_unlikelihood(h, w, ids, alpha=0),
        "unlikelihood, fused": lambda h, w: losses.linear_unlikelihood(h, w, ids),
        "unlikelihood, plain": lambda h, w: plain_unlikelihood(h @ w.T, ids),
        "scalegrad, fused": lambda h, w: losses.linear_scalegrad(h, w, ids),
        "replay of kept ids, fused": lambda h, w: losses.linear_replay_logprobs(h.flatten(0, 1), w, flat, **rows).sum(),
        "replay of kept ids, plain": lambda h, w: plain_replay((h @ w.T).flatten(0, 1), flat, inputs.kept),
        "replay of top-k and top-p, fused": lambda h, w: losses.linear_replay_logprobs(
            h.flatten(0, 1), w, flat, params=PARAMS
        ).sum(),
    }

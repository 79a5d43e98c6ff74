"""What a model writes and how well it predicts: the figures of a row of docs/study.md."""

import math

import torch

from pyllmdecode import losses, metrics
from pyllmdecode.cli.generate import generate
from pyllmdecode.repetition.study import study


@torch.inference_mode()
def perplexity(model, ids: torch.Tensor, length: int, count: int) -> dict:
    """Of windows from a held-out text, and how often the most probable token repeats one of the last 128."""
    model.eval()
    total, guesses, rows = 0.0, [], []
    step = (len(ids) - length - 1) // count
    for begin in range(0, count * step, step):
        window = ids[begin : begin + length + 1][None]
        logits = model(window[:, :-1]).logits
        total += float(losses.unlikelihood(logits, window[:, 1:], alpha=0, reduction="sum"))
        guesses.append(logits[0].argmax(1).tolist())
        rows.append(window[0, 1:].tolist())
    repeats = {"rep-128": metrics.rep_w(rows, 128, guesses), "wrep-128": metrics.wrep_w(rows, 128, guesses)}
    return {"perplexity": math.exp(total / (count * length)), **repeats}


def texts(model, tokenizer, prompts, params, new_tokens: int) -> dict:
    """Of continuations of token ids."""
    model.eval()
    made = generate(model, tokenizer, prompts, params, max_new_tokens=new_tokens).token_ids
    shares = {f"seq-rep-{n}": metrics.seq_rep_n(made, n) for n in (1, 2, 3, 4)}
    shares |= {f"rep-{n}": metrics.rep_n(made, n) for n in (2, 3, 4)}
    return {**shares, "diversity": metrics.diversity(made), "uniq-seq": metrics.uniq_seq(made), "text": made[0]}


def repetition(model, sentences, length: int) -> dict:
    model.eval()
    found = study(model, sentences, max_length=length, prefix=[0])
    return {"probability": found.probability, "rises": found.rises, "wins": found.wins, "ceiling": found.ceiling}

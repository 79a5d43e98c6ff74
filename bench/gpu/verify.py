"""Right answers before any clock runs."""

from dataclasses import replace

import torch
from torch import Tensor

import pyllmdecode

from .contenders import Ours, Read
from .interface import OnDevice

ROWS = 64  # of a batch whose draws by others are looked at
REFERENCE_ROWS = 2  # and that the plain reference computes
# A peer's float32 sums of up to V terms place the end of the nucleus this inexactly, in logits over the temperature.
BOUNDARY = 1e-3


def check(contender: OnDevice, logits: Tensor) -> None:
    """AssertionError where it draws something it should not, on logits [B, V].

    This package's backends must draw the reference's tokens. Others must draw tokens that the reference keeps with the
    parameters that they heed, and where greedy, a largest one.
    """
    contender.make_ready(1)
    found = contender.call(logits, 0).cpu()
    if isinstance(contender, Read):
        assert torch.equal(found, logits.amax(-1).cpu()), "not the maxima"
        return
    assert found.shape == logits.shape[:1], f"shape {list(found.shape)} for {len(logits)} rows"
    found = found.long()
    if isinstance(contender, Ours):
        _same_tokens(contender, logits, found)
    else:
        _kept_tokens(contender, logits, found)


def _same_tokens(contender: Ours, logits: Tensor, found: Tensor) -> None:
    ids = contender.ids.cpu()
    rows = sorted({round(i * (len(ids) - 1) / max(REFERENCE_ROWS - 1, 1)) for i in range(REFERENCE_ROWS)})
    expected = {"reference": (rows, _sample(contender, logits, ids, rows, "reference"))}
    if pyllmdecode.backends()["cpu"]:
        every = list(range(len(ids)))
        expected["cpu"] = (every, _sample(contender, logits, ids, every, "cpu"))
    for backend, (rows, tokens) in expected.items():
        wrong = [(row, int(found[row]), int(token)) for row, token in zip(rows, tokens) if found[row] != token]
        assert not wrong, f"{len(wrong)} rows differ from {backend}; (row, token, expected): {wrong[:3]}"


def _sample(contender: Ours, logits: Tensor, ids: Tensor, rows: list[int], backend: str) -> Tensor:
    return pyllmdecode.sample(logits[rows].cpu(), contender.params, ids[rows], backend=backend).token_ids


def _kept_tokens(contender: OnDevice, logits: Tensor, found: Tensor) -> None:
    quick = bool(pyllmdecode.backends()["cpu"])
    count = min(len(logits), ROWS if quick else REFERENCE_ROWS)
    rows, ids, found = logits[:count].cpu(), contender.ids[:count].cpu(), found[:count]
    assert torch.all((found >= 0) & (found < rows.shape[1])), "tokens outside the vocabulary"
    params, backend = contender.params, "cpu" if quick else "reference"
    if params.temperature == 0:
        every = replace(params, temperature=1.0)
        scores = pyllmdecode.process_logits(rows, every, ids, backend=backend)
        lowest = scores.amax(1)
    else:
        every = replace(params, top_k=0, top_p=1.0, min_p=0.0)
        scores = pyllmdecode.process_logits(rows, every, ids, backend=backend)
        kept = pyllmdecode.process_logits(rows, params, ids, backend=backend)
        lowest = torch.where(kept > -torch.inf, kept, torch.inf).amin(1) - BOUNDARY
    drawn = scores.gather(1, found[:, None])[:, 0]
    wrong = (drawn < lowest).nonzero()[:, 0].tolist()
    assert not wrong, f"{len(wrong)} of {count} rows: tokens that the reference drops; first row {wrong[0]}"

"""Right answers before any clock runs: a contender that draws from something else is not compared with."""

from dataclasses import fields, replace

import torch
from torch import Tensor

import pyllmdecode
from pyllmdecode import SamplingParams

from ..cases import Case
from ..interface import Contender, Peer
from .ours import Read


def check(case: Case, contenders: dict[str, Contender], logits: Tensor, which: int) -> dict[str, str]:
    """-> {name: what is wrong} of freshly prepared contenders; AssertionError where the fault is ours.

    Ours must equal the reference bit for bit in the first row. A peer must keep the tokens that we keep with the
    parameters it knows, but for those at the boundary, with the same scores, and draw one of them.
    """
    history = next(iter(contenders.values())).histories[which]
    kept = pyllmdecode.process_logits(logits, case.params, history)
    first = (logits[:1], case.params, history[:1])
    exact = pyllmdecode.process_logits(*first, backend="reference")
    assert torch.equal(kept[:1], exact), f"{case.name}: process_logits"
    expected = pyllmdecode.sample(*first, backend="reference").token_ids
    wrong = {}
    for name, contender in contenders.items():
        what = f"{case.name}: {name}"
        contender.before(logits, which)
        if isinstance(contender, Peer):
            try:
                _check_peer(case, contender, kept, logits, which)
            except Exception as error:  # of whatever kind: it cannot be compared with
                wrong[name] = f"wrong: {' '.join(str(error).split())[:200] or type(error).__name__}"
            continue
        found = contender.call(logits, which)
        if isinstance(contender, Read):
            assert torch.equal(found, logits.float().amax(1)), what
        else:
            assert found[0] == expected, f"{what} drew {found[0]}, the reference {expected[0]}"
    return wrong


def _check_peer(case: Case, peer: Peer, kept: Tensor, logits: Tensor, which: int) -> None:
    if peer.without:
        off = {field.name: field.default for field in fields(SamplingParams) if field.name in peer.without}
        kept = pyllmdecode.process_logits(logits, replace(case.params, **off), peer.histories[which])
    found = peer.call(logits, which)
    scores = peer.scores(logits, which)
    assert torch.all(scores.gather(1, found[:, None]) > -torch.inf), "drew a token it had dropped"
    _compare(case, peer, kept, scores)


def _compare(case: Case, peer: Peer, ours: Tensor, theirs: Tensor) -> None:
    if case.params.temperature == 0:
        chosen = ours.argmax(1, keepdim=True)
        assert torch.equal(theirs.gather(1, chosen), theirs.amax(1, keepdim=True)), "another largest token"
        return
    both = (ours > -torch.inf) & (theirs > -torch.inf)
    torch.testing.assert_close(theirs[both], ours[both], rtol=1e-5, atol=1e-5)
    lowest = torch.where(ours > -torch.inf, ours, torch.inf).amin(1, keepdim=True)
    differ = (ours > -torch.inf) != (theirs > -torch.inf)
    distance = (torch.maximum(ours, theirs) - lowest).abs()[differ]
    # Half types make many ties, and where some of them are dropped, the nucleus ends one value of the type elsewhere.
    step = 0 if peer.keeps_ties else torch.finfo(case.torch_dtype).eps * lowest.abs().amax()
    assert distance.numel() == 0 or distance.max() <= peer.boundary + step, (
        f"{distance.numel()} tokens are kept by one only, up to {distance.max():.3g} from the boundary"
    )

"""Right answers before any clock runs: a contender that draws from something else is not compared with."""

import torch
from cases import Case
from interface import Contender, Peer
from ours import Read
from torch import Tensor

import pyllmdecode

# A peer's float32 sums of up to V terms place the end of the nucleus this inexactly, in logits divided by the
# temperature; tied logits there, which half types make, stand or fall together for us and one by one in a sort.
BOUNDARY = 1e-3


def check(case: Case, contenders: list[Contender], logits: Tensor, which: int) -> None:
    """AssertionError where a freshly prepared contender is wrong on these logits.

    Ours must equal the reference bit for bit in the first row. A peer must keep the tokens that we keep, but for those
    at the boundary, with the same scores, and draw one of them.
    """
    history = contenders[0].histories[which]
    kept = pyllmdecode.process_logits(logits, case.params, history)
    first = (logits[:1], case.params, history[:1])
    exact = pyllmdecode.process_logits(*first, backend="reference")
    assert torch.equal(kept[:1], exact), f"{case.name}: process_logits"
    expected = pyllmdecode.sample(*first, backend="reference").token_ids
    for contender in contenders:
        what = f"{case.name}: {type(contender).__name__}"
        contender.before(logits, which)
        found = contender.call(logits, which)
        if isinstance(contender, Read):
            assert torch.equal(found, logits.float().amax(1)), what
        elif isinstance(contender, Peer):
            scores = contender.scores(logits, which)
            assert torch.all(scores.gather(1, found[:, None]) > -torch.inf), f"{what} drew a token it had dropped"
            _compare(case, kept, scores, what)
        else:
            assert found[0] == expected, f"{what} drew {found[0]}, the reference {expected[0]}"


def _compare(case: Case, ours: Tensor, theirs: Tensor, what: str) -> None:
    if case.params.temperature == 0:
        chosen = ours.argmax(1, keepdim=True)
        assert torch.equal(theirs.gather(1, chosen), theirs.amax(1, keepdim=True)), f"{what}: another largest token"
        return
    both = (ours > -torch.inf) & (theirs > -torch.inf)
    torch.testing.assert_close(theirs[both], ours[both], rtol=1e-5, atol=1e-5, msg=lambda m: f"{what}: {m}")
    lowest = torch.where(ours > -torch.inf, ours, torch.inf).amin(1, keepdim=True)
    differ = (ours > -torch.inf) != (theirs > -torch.inf)
    distance = (torch.maximum(ours, theirs) - lowest).abs()[differ]
    assert distance.numel() == 0 or distance.max() <= BOUNDARY, (
        f"{what}: {distance.numel()} tokens are kept by one only, up to {distance.max():.3g} from the boundary"
    )

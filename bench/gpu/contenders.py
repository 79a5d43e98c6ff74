"""Who is measured on a GPU, by name: this package's backends, plain torch, transformers. Engines: peers.py."""

import torch
from torch import Tensor

import pyllmdecode

from ..cases import Case
from .interface import LeftOut, OnDevice
from .peers import REGISTRY as PEERS

INF = float("inf")


class Ours(OnDevice):
    """`Sampler.step`. It appends what it draws, so the requests are added anew after STEPS steps."""

    STEPS = 128
    backend = ""

    def __init__(self, case: Case, device: torch.device):
        state = pyllmdecode.backends()[self.backend]
        if not state:
            raise LeftOut(state.reason)
        super().__init__(case, device)
        room = self.ids.shape[1] + self.STEPS
        self.sampler = pyllmdecode.Sampler(case.vocab, case.batch, room, device=device, backend=self.backend)
        self.left = 0

    def make_ready(self, calls: int) -> None:
        if self.left < calls:
            self.begin()
        self.left -= calls

    def begin(self) -> None:
        """All requests as they were at first."""
        for slot in self.sampler.slots:
            self.sampler.remove(slot)
        for row in self.ids:
            self.sampler.add(self.params, row)
        self.left = self.STEPS

    def call(self, logits: Tensor, which: int) -> Tensor:
        return self.sampler.step(logits).token_ids


def ours(name: str) -> type[Ours]:
    return type(f"Ours_{name}", (Ours,), {"backend": name})


class Read(OnDevice):
    """The logits read once, by torch, for each row's maximum."""

    def call(self, logits: Tensor, which: int) -> Tensor:
        return logits.amax(-1)


class Transformers(OnDevice):
    """bench/cpu/peers.py's chain of processors."""

    def __init__(self, case: Case, device: torch.device):
        try:
            from ..cpu.peers import Transformers as Chain
        except ImportError as error:
            raise LeftOut(f"not installed ({error})") from None
        super().__init__(case, device)
        self.chain = Chain(case)
        self.chain.histories = self.histories
        if case.params.no_repeat_ngram_size:
            self.eager_only = "its n-gram processor works on the host"

    def call(self, logits: Tensor, which: int) -> Tensor:
        return self.chain.call(logits, which)


class Torch(OnDevice):
    """Plain tensor operations without waiting for the device: as in engines, one sort for top-k and top-p."""

    def edited(self, logits: Tensor) -> Tensor:
        p, ids = self.params, self.ids
        x = logits.to(torch.float32, copy=True)
        if p.repetition_penalty != 1:
            seen = x.gather(1, ids)
            x.scatter_(1, ids, torch.where(seen < 0, seen * p.repetition_penalty, seen / p.repetition_penalty))
        n = p.no_repeat_ngram_size
        if n and ids.shape[1] >= n:
            windows = ids.unfold(1, n, 1)  # [B, L - n + 1, n]
            last = windows[..., -1]
            repeated = (windows[..., :-1] == ids[:, None, 1 - n :]).all(-1)
            # The smallest wins where a token ends several windows, of which some are repeated and some are not.
            x.scatter_reduce_(1, last, torch.where(repeated, -INF, x.gather(1, last)), "amin")
        return x.div_(p.temperature) if p.temperature not in (0, 1) else x

    def call(self, logits: Tensor, which: int) -> Tensor:
        p, x = self.params, self.edited(logits)
        if p.temperature == 0:
            return x.argmax(-1)
        if p.top_p < 1 or p.top_k > 0:
            ascending, order = x.sort(-1)
            if p.top_k > 0:
                ascending.masked_fill_(ascending < ascending[:, -p.top_k, None], -INF)
            if p.top_p < 1:
                drop = ascending.softmax(-1).cumsum_(-1) <= 1 - p.top_p
                drop[:, -1] = False
                ascending.masked_fill_(drop, -INF)
            x = x.scatter_(1, order, ascending)
        return draw(x.softmax(-1))


class TorchTopK(Torch):
    """The same with `topk`: top-p and the draw see the k largest only."""

    def __init__(self, case: Case, device: torch.device):
        if case.params.top_k <= 0:
            raise LeftOut("needs a k")
        super().__init__(case, device)

    def call(self, logits: Tensor, which: int) -> Tensor:
        values, ids = self.edited(logits).topk(self.params.top_k)
        shares = values.softmax(-1)
        values.masked_fill_(shares.cumsum(-1) - shares >= self.params.top_p, -INF)
        return ids.gather(1, draw(values.softmax(-1))[:, None]).squeeze(1)


def draw(probabilities: Tensor) -> Tensor:
    """As vLLM's PyTorch path draws: torch.multinomial costs more and may wait for the device."""
    noise = torch.empty_like(probabilities).exponential_()
    return (probabilities / noise).argmax(-1)


def registry(kind: str) -> dict[str, type[OnDevice]]:
    """By name, in the order of the tables' columns."""
    if kind == "cpu":
        backends = {name: ours(name) for name in ("cpu", "reference")}
        return {**backends, "read": Read, "torch": Torch, "torch-topk": TorchTopK, "transformers": Transformers}
    backends = {name: ours(name) for name in pyllmdecode.backends() if name not in ("cpu", "reference")}
    return {
        **backends,
        "read": Read,
        **PEERS,
        "torch": Torch,
        "torch-topk": TorchTopK,
        "transformers": Transformers,
    }

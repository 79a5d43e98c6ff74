"""The backends under test, as fixtures. A backend joins every test here by its name in BACKENDS."""

import os
from contextlib import contextmanager
from dataclasses import dataclass

# Torch's threads otherwise spin while they wait: on a busy machine that takes a hundred times as long.
os.environ.setdefault("GOMP_SPINCOUNT", "10000")

import pytest
import torch
from hypothesis import HealthCheck, settings

import pyllmdecode as pld
from pyllmdecode import cpu

BACKENDS = {"reference": "cpu", "cpu": "cpu"}  # name -> device of its tensors
INSTRUCTION_SETS = ("baseline", "avx2", "avx512")  # the backend "cpu" is tested once with each

settings.register_profile(
    "pyllmdecode",
    deadline=None,
    derandomize=bool(os.environ.get("CI")),
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow, HealthCheck.data_too_large],
)
settings.load_profile("pyllmdecode")


@dataclass(frozen=True)
class BackendUnderTest:
    name: str
    device: str
    isa: str | None = None

    def __str__(self):
        return self.isa and f"{self.name}-{self.isa}" or self.name

    def move(self, value):
        """Tensors, also inside lists, on this backend's device; anything else as it is."""
        if isinstance(value, torch.Tensor):
            return value.to(self.device)
        return [self.move(item) for item in value] if isinstance(value, list) else value

    def sample(self, logits, params, history=None, **options):
        options = {name: self.move(value) for name, value in options.items()}
        output = pld.sample(self.move(logits), params, self.move(history), backend=self.name, **options)
        return output._replace(**{name: t.cpu() for name, t in output._asdict().items() if t is not None})

    def process_logits(self, logits, params, history=None, **options):
        return pld.process_logits(self.move(logits), params, self.move(history), backend=self.name, **options).cpu()

    def sampler(self, vocab_size, max_batch, max_length):
        return pld.Sampler(vocab_size, max_batch, max_length, device=self.device, backend=self.name)

    @contextmanager
    def active(self):
        """Skips the test where this backend cannot run; chooses its instruction set meanwhile."""
        state = pld.backends()[self.name]
        if not state:
            pytest.skip(f"backend {self.name}: {state.reason}")
        if self.isa is None:
            yield self
            return
        if self.isa not in cpu.isas():
            pytest.skip(f"backend {self}: this machine runs {', '.join(cpu.isas())}")
        before = cpu.isa()
        cpu.choose_isa(self.isa)
        yield self
        cpu.choose_isa(before)


def _variants(names):
    for name in names:
        for isa in INSTRUCTION_SETS if name == "cpu" else (None,):
            yield pytest.param(BackendUnderTest(name, BACKENDS[name], isa), id=str(BackendUnderTest(name, "", isa)))


@pytest.fixture(params=_variants(BACKENDS))
def backend(request):
    """Every backend, each instruction set of the native one by itself."""
    with request.param.active() as it:
        yield it


@pytest.fixture(params=_variants(name for name in BACKENDS if name != "reference"))
def fast(request):
    """Every backend that is compared with the reference."""
    with request.param.active() as it:
        yield it


@pytest.fixture(params=_variants(["cpu"]))
def native(request):
    """The native CPU backend, with each instruction set."""
    with request.param.active() as it:
        yield it


@pytest.fixture
def threads():
    """torch.set_num_threads, undone afterwards."""
    before = torch.get_num_threads()
    yield torch.set_num_threads
    torch.set_num_threads(before)

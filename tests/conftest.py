"""The backends under test, as fixtures. A backend joins every test here by its name in BACKENDS."""

import os
import zlib
from contextlib import contextmanager
from dataclasses import dataclass

# Torch's threads otherwise spin while they wait: on a busy machine that takes a hundred times as long.
os.environ.setdefault("GOMP_SPINCOUNT", "10000")

import pytest
import torch
from cases import DTYPES
from hypothesis import HealthCheck, settings
from interpreter import GPU, hasten

import pyllmdecode as pld
from pyllmdecode.backends import cpu

# Name -> device of its tensors. Without a GPU, Triton's interpreter and the CUDA source on threads run on the CPU.
_GPU = "cuda" if GPU else "cpu"
BACKENDS = {"reference": "cpu", "cpu": "cpu", "triton": _GPU, "cuda": _GPU}
# Each is tested in all its variants: the instruction sets of the native library, and sizes that the Triton kernels are
# compiled for, of which the small ones split small rows over many programs and overflow their lists.
VARIANTS = {"cpu": ("baseline", "avx2", "avx512"), "triton": ("served", "small")}

hasten()

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
    variant: str | None = None

    def __str__(self):
        return f"{self.name}-{self.variant}" if self.variant else self.name

    @property
    def interpreted(self):
        """Whether a row takes 0.1 s, so that tests had better try few."""
        return self.name == "triton" and not GPU

    def some(self, items, count=8):
        """All of a sequence, or for Triton's interpreter `count` of them at even distances, the last one among them."""
        if not self.interpreted or len(items) <= count:
            return items
        return [items[len(items) - 1 - index * len(items) // count] for index in range(count)][::-1]

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
        if self.name == "cpu":
            yield from self._with_instruction_set()
        elif self.variant == "small":
            yield from self._with_small_sizes()
        else:
            yield self

    def _with_instruction_set(self):
        if self.variant not in cpu.isas():
            pytest.skip(f"backend {self}: this machine runs {', '.join(cpu.isas())}")
        before = cpu.isa()
        cpu.choose_isa(self.variant)
        yield self
        cpu.choose_isa(before)

    def _with_small_sizes(self):
        from pyllmdecode.backends import triton

        before = triton.CONFIG
        triton.CONFIG = triton.Config(chunk=8, tile=128, capacity=256, sample=64, warps=4, merged=20)
        yield self
        triton.CONFIG = before


def _variants(names, quick=False):
    for name in names:
        variants = VARIANTS.get(name, (None,))
        for variant in variants[-1:] if quick and name == "triton" and not GPU else variants:
            it = BackendUnderTest(name, BACKENDS[name], variant)
            yield pytest.param(it, id=str(it))


@pytest.fixture(params=_variants(BACKENDS, quick=True))
def backend(request):
    """Every backend, each instruction set of the native one by itself; Triton's interpreter with the small sizes."""
    with request.param.active() as it:
        yield it


@pytest.fixture(params=_variants(name for name in BACKENDS if name != "reference"))
def fast(request):
    """Every backend that is compared with the reference, in every variant."""
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


def pytest_collection_modifyitems(config, items):
    """In Triton's interpreter each combination of other parameters is tried with one dtype, not the same for all."""
    kept, left_out = [], []
    for item in items:
        parameters = dict(getattr(getattr(item, "callspec", None), "params", {}))
        variant = next((v for v in parameters.values() if isinstance(v, BackendUnderTest)), None)
        if variant is None or not variant.interpreted or "dtype" not in parameters:
            kept.append(item)
            continue
        dtype, types = parameters.pop("dtype"), list(DTYPES)
        others = [repr(value) for value in parameters.values() if value is not variant]
        wanted = (zlib.crc32(repr(others).encode()) + (variant.variant == "small")) % len(types)
        (kept if dtype == types[wanted] else left_out).append(item)
    items[:] = kept
    config.left_out = len(left_out)
    if left_out:
        config.hook.pytest_deselected(items=left_out)


def pytest_terminal_summary(terminalreporter, config):
    if getattr(config, "left_out", 0):
        terminalreporter.write_line(
            f"{config.left_out} tests left out: Triton's interpreter tries one dtype where a GPU tries three"
        )

"""The backends under test, as fixtures. A backend joins every test here by its name in BACKENDS."""

import os
import zlib
from contextlib import contextmanager
from dataclasses import dataclass
from typing import ClassVar

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
# Each is tested in all its variants: the instruction sets of the native library; sizes that the Triton kernels are
# compiled for, of which the small ones split small rows over many programs and overflow their lists; and the CUDA
# source on fibers, or on threads, which take fifty times as long.
VARIANTS = {"cpu": ("baseline", "avx2", "avx512"), "triton": ("served", "small")}
if not GPU:
    VARIANTS["cuda"] = (None, "threads")
THOROUGH = {"threads"}  # variants that only --thorough tries
QUICK_SHARE = 16  # without it Triton's interpreter tries one in so many of a test's parameters

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
    thorough: ClassVar[bool] = False  # --thorough was given

    def __str__(self):
        return f"{self.name}-{self.variant}" if self.variant else self.name

    @property
    def interpreted(self):
        """Whether a row takes 0.1 s, so that tests had better try few."""
        return self.name == "triton" and not GPU

    @property
    def slow(self):
        return self.interpreted or self.name == "reference"

    def fewer(self, count, quick):
        """So many rounds of something; `quick` of them for a slow backend, unless everything is to be tried."""
        return quick if self.slow and not BackendUnderTest.thorough else count

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
        elif self.variant == "threads":
            yield from self._on_threads()
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

    def _on_threads(self):
        from pyllmdecode.backends import cuda

        before = cuda.choose_fibers(False)
        yield self
        cuda.choose_fibers(before)


def _variants(names, quick=False):
    for name in names:
        variants = VARIANTS.get(name, (None,))
        for variant in variants[-1:] if quick and name == "triton" and not GPU else variants:
            it = BackendUnderTest(name, BACKENDS[name], variant)
            yield pytest.param(it, id=str(it), marks=pytest.mark.thorough if variant in THOROUGH else ())


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


def pytest_addoption(parser):
    parser.addoption("--thorough", action="store_true", help="also what takes long: make test-all")


def pytest_configure(config):
    BackendUnderTest.thorough = config.getoption("--thorough")


def pytest_collection_modifyitems(config, items):
    """Leaves out what is not tried anywhere, and what is not tried now."""
    doubled = {item for item in items if _is_other_dtype(item)}
    later = set() if BackendUnderTest.thorough else _for_later([item for item in items if item not in doubled])
    left_out = [item for item in items if item in doubled or item in later]
    items[:] = [item for item in items if item not in doubled and item not in later]
    config.left_out = len(doubled), len(later)
    if left_out:
        config.hook.pytest_deselected(items=left_out)


def _variant_of(item) -> BackendUnderTest | None:
    parameters = getattr(getattr(item, "callspec", None), "params", {})
    return next((value for value in parameters.values() if isinstance(value, BackendUnderTest)), None)


def _is_other_dtype(item) -> bool:
    """In Triton's interpreter each combination of other parameters is tried with one dtype, not the same for all."""
    variant = _variant_of(item)
    if variant is None or not variant.interpreted or "dtype" not in item.callspec.params:
        return False
    parameters, types = dict(item.callspec.params), list(DTYPES)
    dtype = parameters.pop("dtype")
    others = [repr(value) for value in parameters.values() if value is not variant]
    return dtype != types[(zlib.crc32(repr(others).encode()) + (variant.variant == "small")) % len(types)]


def _for_later(items) -> set:
    """What is marked as thorough, for this backend; of the rest, most of what Triton's interpreter could try."""
    later, of_interpreter = set(), {}
    for item in items:
        variant = _variant_of(item)
        marks = list(item.iter_markers("thorough"))
        if any(not mark.args or (variant and variant.name in mark.args) for mark in marks):
            later.add(item)
        elif variant is not None and variant.interpreted:
            of_interpreter.setdefault((item.function, variant), []).append(item)
    for (function, variant), tests in of_interpreter.items():
        first = zlib.crc32(f"{function.__name__} {variant}".encode()) % min(QUICK_SHARE, len(tests))
        later.update(tests)
        later.difference_update(tests[first::QUICK_SHARE])
    return later


def pytest_terminal_summary(terminalreporter, config):
    doubled, later = getattr(config, "left_out", (0, 0))
    if doubled:
        terminalreporter.write_line(
            f"{doubled} tests left out: Triton's interpreter tries one dtype where a GPU tries three"
        )
    if later:
        terminalreporter.write_line(f"{later} tests left for `make test-all`, as they take long")

"""Builds the native code with ninja: the objects of every library in one run, linked into pyllmdecode/.

    python setup.py build_ext --inplace      (or pip install -e . --no-build-isolation)

_cpu is always built, with one set of kernels per instruction set. _cuda is built where there is an nvcc
(csrc/cuda_toolkit.py); _cuda_stamped, which writes down when a row passes which stage, where `make gpu` asks for it;
and _cuda_on_threads, the same code on threads of the CPU, where tests ask for it. ENVs.md lists the environment
variables.
"""

import os
import platform
import re
import shlex
import subprocess
import sys
import sysconfig
import tomllib
from pathlib import Path
from typing import NamedTuple

from setuptools import Extension, find_packages, setup
from setuptools.command.build_ext import build_ext
from setuptools.command.sdist import sdist
from setuptools.errors import CompileError, SetupError

sys.path.insert(0, str(Path(__file__).parent.resolve() / "csrc"))
import cuda_toolkit

ROOT = Path(__file__).parent.resolve()
COMPILER = os.environ.get("CXX", "g++")
EXTRA = os.environ.get("PYLLMDECODE_CXXFLAGS", "")
# -ffp-contract=off: results must not depend on what the compiler fuses. Traps and errno are nobody's concern here, and
# minding them keeps comparisons from being vectorised; neither flag changes a result.
CXXFLAGS = "-std=c++20 -O3 -fPIC -fvisibility=hidden -ffp-contract=off -fno-math-errno -fno-trapping-math -Wall -Wextra"
# One set of kernels per instruction set, in one binary. The names are those of PYLLMDECODE_ISA.
AVX2 = "-mavx2 -mf16c -mbmi -mbmi2 -mpopcnt"
INSTRUCTION_SETS = {"baseline": ""}
if platform.machine().lower() in ("x86_64", "amd64"):
    INSTRUCTION_SETS |= {"avx2": AVX2, "avx512": f"{AVX2} -mavx512f -mavx512bw -mavx512dq -mavx512vl"}
NO_WARNINGS = "-Wno-psabi -Wno-uninitialized -Wno-unknown-warning-option -Wno-maybe-uninitialized"
PER_INSTRUCTION_SET = ["sample_step", "process_logits", "kernels"]
ONCE = ["batch", "dispatch", "module", "scratch", "threads"]
# -fmad=false is nvcc's -ffp-contract=off. The toolkit's headers are full of functions that clang finds unused. The
# threads are nvcc's own, one per architecture; lines for profilers are most of the library where it is not compressed.
NVCCFLAGS = "-std=c++20 -O3 -fmad=false -lineinfo -Xfatbin=-compress-all --threads 0"
NVCC_HOST_FLAGS = "-fPIC -fvisibility=hidden -ffp-contract=off -Wall -Wno-unused-function"


NAMES = ("_cpu", "_cuda", "_cuda_stamped", "_cuda_on_threads")


class Object(NamedTuple):
    name: str
    source: str  # below csrc
    flags: str = ""
    rule: str = "compile"


class Library(NamedTuple):
    objects: list[Object]
    ldflags: str = ""


def cpu() -> Library:
    objects = [Object(name, f"cpu/{name}.cpp") for name in ONCE]
    for isa, flags in INSTRUCTION_SETS.items():
        # GCC 12's own AVX-512 header warns of the variable it leaves undefined on purpose.
        flags += f" -DPLD_ISA={isa} {NO_WARNINGS}"
        objects += [Object(f"{name}.{isa}", f"cpu/{name}.cpp", flags) for name in PER_INSTRUCTION_SET]
    return Library(objects)


def cuda(toolkit: cuda_toolkit.Toolkit, name: str = "_cuda", flags: str = "") -> Library:
    # The runtime is linked in, so that the library loads without CUDA and beside any torch.
    return Library(
        [
            Object(f"{name}.launch", "cuda/launch.cu", f"{toolkit.gencode} {flags}".strip(), "compile_cuda"),
            Object(f"{name}.module", "cuda/module.cpp", f"-DPLD_MODULE={name}"),
        ],
        f"{shlex.quote(toolkit.runtime)} -ldl -lrt -lpthread",
    )


def cuda_on_threads() -> Library:
    flags = "-DPLD_ON_THREADS -DPLD_MODULE=_cuda_on_threads -fno-strict-aliasing"
    names = ["launch_on_threads", "module"]
    return Library([Object(f"_cuda_on_threads.{name}", f"cuda/{name}.cpp", flags) for name in names])


def pybind11_include() -> str:
    """pybind11's headers: its own package, or the copy inside torch where no package registry can be reached."""
    try:
        import pybind11

        return pybind11.get_include()
    except ImportError:
        import torch

        return str(Path(torch.__file__).parent / "include")


def ninja_path() -> str:
    try:
        import ninja

        return str(Path(ninja.BIN_DIR) / "ninja")
    except ImportError:
        return "ninja"


def nvcc_command(toolkit: cuda_toolkit.Toolkit) -> str:
    # Commas separate what -Xcompiler hands on.
    host = ",".join(flag.replace(",", r"\,") for flag in shlex.split(f"{NVCC_HOST_FLAGS} {EXTRA}"))
    command = f"{shlex.quote(toolkit.nvcc)} {NVCCFLAGS} -Xcompiler={shlex.quote(host)}"
    chosen = shlex.split(os.environ.get("CXX", ""))
    if len(chosen) == 1 and "NVCC_CCBIN" not in os.environ:  # nvcc takes a program there, without arguments
        command += f" -ccbin {shlex.quote(chosen[0])}"
    return command


def ninja_file(libraries: dict[Path, Library], build: Path, toolkit: cuda_toolkit.Toolkit | None) -> str:
    """The text of build.ninja."""
    includes = f"-isystem {sysconfig.get_path('include')} -isystem {pybind11_include()}"
    link = f"{COMPILER} -shared" + (" -undefined dynamic_lookup" if platform.system() == "Darwin" else "")
    ldflags = os.environ.get("PYLLMDECODE_LDFLAGS", "")
    compilers = {"compile": f"{COMPILER} {CXXFLAGS} {includes} {EXTRA}"}
    if toolkit:
        compilers["compile_cuda"] = nvcc_command(toolkit)
    lines = ["ninja_required_version = 1.5", f"builddir = {build}"]
    for rule, command in compilers.items():
        lines += [
            f"rule {rule}",
            f"  command = {command} -MMD -MF $out.d $flags -c $in -o $out",
            "  depfile = $out.d",
            "  deps = gcc",
            "  description = $out",
        ]
    lines += [
        "rule link",
        f"  command = {link} $in -o $out -pthread $libraries {ldflags}",
        "  description = link $out",
    ]
    for output, library in libraries.items():
        for it in library.objects:
            lines += [f"build {build}/{it.name}.o: {it.rule} {ROOT}/csrc/{it.source}", f"  flags = {it.flags}"]
        objects = " ".join(f"{build}/{it.name}.o" for it in library.objects)
        lines += [f"build {output}: link {objects}", f"  libraries = {library.ldflags}"]
    return "\n".join([*lines, ""])


class NinjaBuild(build_ext):
    """What is not built now is not left from an earlier build either: it would be of other sources, or in a wheel."""

    def build_extensions(self) -> None:
        try:
            toolkit, why_not = cuda_toolkit.decide(os.environ)
        except cuda_toolkit.Unusable as error:
            raise SetupError(str(error)) from None
        libraries = {"_cpu": cpu()}
        if toolkit:
            libraries["_cuda"] = cuda(toolkit)
            if os.environ.get("PYLLMDECODE_CUDA_STAMPS") == "1":
                libraries["_cuda_stamped"] = cuda(toolkit, "_cuda_stamped", "-DPLD_STAMPS")
        if os.environ.get("PYLLMDECODE_CUDA_ON_THREADS") == "1":
            libraries["_cuda_on_threads"] = cuda_on_threads()

        outputs = {name: Path(self.get_ext_fullpath(f"pyllmdecode.{name}")).resolve() for name in libraries}
        outputs["_cpu"].parent.mkdir(parents=True, exist_ok=True)
        build = Path(os.environ.get("PYLLMDECODE_BUILD_DIR", ROOT / "build" / "native")).resolve()
        build.mkdir(parents=True, exist_ok=True)
        script = build / "build.ninja"
        text = ninja_file({outputs[name]: library for name, library in libraries.items()}, build, toolkit)
        if not script.exists() or script.read_text() != text:
            script.write_text(text)
        if not self.ninja(script, outputs):
            # A toolkit that does not work is no reason to be without the CPU backend, unless CUDA was asked for.
            outputs.pop("_cuda_stamped", None)
            if outputs.pop("_cuda", None) is None or os.environ.get("PYLLMDECODE_CUDA") == "1":
                raise CompileError("the native code did not compile")
            if not self.ninja(script, outputs):
                raise CompileError("the native code did not compile")
            why_not = "it did not compile, see above"
        if toolkit and toolkit.left_out:
            print(toolkit.left_out, flush=True)
        if why_not:
            print(f"The CUDA backend is not built: {why_not}.", flush=True)

        self.absent = [it for it in self.extensions if it.name.rpartition(".")[2] not in outputs]
        self.extensions = [it for it in self.extensions if it not in self.absent]
        for it in self.absent:
            Path(self.get_ext_fullpath(it.name)).unlink(missing_ok=True)

    def ninja(self, script: Path, outputs: dict[str, Path]) -> bool:
        command = [ninja_path(), "-f", str(script), *map(str, outputs.values())]
        if self.verbose:
            print(shlex.join(command), flush=True)
        return subprocess.run(command).returncode == 0

    def copy_extensions_to_source(self) -> None:
        super().copy_extensions_to_source()
        for it in self.absent:
            (ROOT / self.get_ext_filename(it.name)).unlink(missing_ok=True)


class SourceDistribution(sdist):
    """With pyllmdecode/kernels, a link, which setuptools leaves out and an editable install needs."""

    def make_release_tree(self, base_dir: str, files: list[str]) -> None:
        super().make_release_tree(base_dir, files)
        Path(base_dir, "pyllmdecode", "kernels").symlink_to("../kernels")


def long_description() -> str:
    """README.md for package registries: its links are to files beside it, and become links to the repository."""
    repository = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["urls"]["Repository"]

    def absolute(link: re.Match) -> str:
        text, target = link.groups()
        if target.startswith("#"):
            return f"{text}({repository}{target})"
        return f"{text}({repository}/{'raw' if text.startswith('!') else 'blob'}/main/{target})"

    return re.sub(r"(!?\[[^]]*\])\((?!https?://)([^)\s]+)\)", absolute, (ROOT / "README.md").read_text())


setup(
    long_description=long_description(),
    long_description_content_type="text/markdown",
    packages=[*find_packages(include=["pyllmdecode", "pyllmdecode.*"]), "pyllmdecode.kernels"],
    package_dir={"pyllmdecode": "pyllmdecode", "pyllmdecode.kernels": "kernels"},
    package_data={
        "pyllmdecode": ["py.typed"],
        "pyllmdecode.kernels": ["README.md"],  # a package without files would not be installed at all
    },
    ext_modules=[Extension(f"pyllmdecode.{name}", []) for name in NAMES],
    cmdclass={"build_ext": NinjaBuild, "sdist": SourceDistribution},
)

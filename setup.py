"""Builds the native code with ninja: one object per source and instruction set, linked into pyllmdecode/_cpu.

    python setup.py build_ext --inplace      (or pip install -e . --no-build-isolation)

PYLLMDECODE_CXXFLAGS and PYLLMDECODE_LDFLAGS are appended to the compiler's and the linker's flags (sanitizers); CXX is
the compiler; PYLLMDECODE_BUILD_DIR is where objects go (default build/native).
"""

import os
import platform
import shlex
import subprocess
import sysconfig
from pathlib import Path

from setuptools import Extension, setup
from setuptools.command.build_ext import build_ext

ROOT = Path(__file__).parent.resolve()
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


def ninja_file(output: Path, build: Path) -> str:
    """The text of build.ninja."""
    compiler = os.environ.get("CXX", "g++")
    extra = os.environ.get("PYLLMDECODE_CXXFLAGS", "")
    includes = f"-isystem {sysconfig.get_path('include')} -isystem {pybind11_include()}"
    link = "-undefined dynamic_lookup" if platform.system() == "Darwin" else ""
    lines = [
        "ninja_required_version = 1.5",
        f"builddir = {build}",
        f"cxx = {compiler}",
        f"cxxflags = {CXXFLAGS} {includes} {extra}",
        f"ldflags = {link} -pthread {os.environ.get('PYLLMDECODE_LDFLAGS', '')}",
        "rule compile",
        "  command = $cxx -MMD -MF $out.d $cxxflags $isaflags -c $in -o $out",
        "  depfile = $out.d",
        "  deps = gcc",
        "  description = $in $isa",
        "rule link",
        "  command = $cxx -shared $in -o $out $ldflags",
        "  description = link $out",
    ]
    objects = []
    for source in ONCE:
        objects.append(f"{build}/{source}.o")
        lines.append(f"build {objects[-1]}: compile {ROOT}/csrc/cpu/{source}.cpp")
    for isa, flags in INSTRUCTION_SETS.items():
        for source in PER_INSTRUCTION_SET:
            objects.append(f"{build}/{source}.{isa}.o")
            lines += [
                f"build {objects[-1]}: compile {ROOT}/csrc/cpu/{source}.cpp",
                f"  isa = {isa}",
                # GCC 12's own AVX-512 header warns of the variable it leaves undefined on purpose.
                f"  isaflags = {flags} -DPLD_ISA={isa} {NO_WARNINGS}",
            ]
    lines += [f"build {output}: link {' '.join(objects)}", f"default {output}", ""]
    return "\n".join(lines)


class NinjaBuild(build_ext):
    def build_extension(self, ext: Extension) -> None:
        output = Path(self.get_ext_fullpath(ext.name)).resolve()
        output.parent.mkdir(parents=True, exist_ok=True)
        build = Path(os.environ.get("PYLLMDECODE_BUILD_DIR", ROOT / "build" / "native")).resolve()
        build.mkdir(parents=True, exist_ok=True)
        script = build / "build.ninja"
        text = ninja_file(output, build)
        if not script.exists() or script.read_text() != text:
            script.write_text(text)
        command = [ninja_path(), "-f", str(script)]
        if self.verbose:
            print(shlex.join(command), flush=True)
        subprocess.run(command, check=True)


setup(
    packages=["pyllmdecode", "pyllmdecode.reference", "pyllmdecode.kernels"],
    package_dir={"pyllmdecode": "pyllmdecode", "pyllmdecode.kernels": "kernels"},
    package_data={"pyllmdecode.kernels": ["README.md"]},  # a package without files would not be installed at all
    ext_modules=[Extension("pyllmdecode._cpu", [])],
    cmdclass={"build_ext": NinjaBuild},
)

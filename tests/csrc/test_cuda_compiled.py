"""The CUDA kernels compiled by setup.py's rules for GPUs that need not be there: what the compiler makes of them."""

import fcntl
import importlib.util
import json
import os
import re
import runpy
import shlex
import shutil
import subprocess
import sys
from pathlib import Path
from typing import NamedTuple
from unittest import mock

import pytest

ROOT = Path(__file__).parent.parent.parent
CSRC = ROOT / "csrc"
BUILT = ROOT / "build" / "native" / "_cuda.launch.o"
KIB = 1024
KINDS = ("held", "workspace", "stream", "rest")  # clusters with rows in shared memory, or not; launch.cu, the others
KERNELS = {(dtype, kind) for dtype in ("Float32", "Float16", "BFloat16") for kind in KINDS}
# Of a multiprocessor, on sm_90 and sm_100 alike. Registers are given to a warp at a time, from its own partition.
PARTITIONS, REGISTERS, UNIT = 4, 16384, 256
SHARED, SHARED_OF_BLOCK, RESERVED = 228 * KIB, 227 * KIB, 1 * KIB

SIZES = """
#include <cstdio>
#include "cuda/group.h"
#include "cuda/shared.h"
int main() {
  using namespace pld;
  const int64_t shared = sizeof(Shared<Group>);
  const Shape shape = shape_of(128256, 5, Group::kThreads, %d - shared);
  const int bytes = shape.resident ? int(shared + 4 * shape.slice) : 0;
  std::printf("{\\"threads\\": %%d, \\"bytes\\": %%d}", Group::kThreads, bytes);
}
"""
MASSES = """
#include "mass.h"
__global__ void masses(const float* x, uint64_t* out) { out[threadIdx.x] = pld::mass_of(x[threadIdx.x], 3, x[0]); }
"""


class Instruction(NamedTuple):
    name: str  # such as LDS.128
    file: str  # where it comes from,
    line: int


class Tools(NamedTuple):
    command: list[str]  # nvcc, and setup.py's flags
    toolkit: NamedTuple
    path: str  # where the disassembler is looked for
    ninja: str

    def compile(self, source, target, *flags):
        done = subprocess.run([*self.command, *flags, source, "-o", target], capture_output=True, text=True)
        assert done.returncode == 0, done.stderr[-4000:]
        return target

    def read(self, program, *arguments, cwd=None):
        command = [shutil.which(program, path=self.path), *arguments]
        return subprocess.run(command, cwd=cwd, check=True, capture_output=True, text=True).stdout

    def disassemble(self, cubin) -> dict[str, list[Instruction]]:
        """The instructions of each kernel, by its mangled name, in the order of their addresses."""
        pattern = re.compile(
            r"\.section\s+\.text\.(?P<kernel>\w+)"
            r'|//## File "(?:[^"]*/)?(?P<file>[^"/]+)", line (?P<line>\d+)'
            r"|/\*[0-9a-f]{4,}\*/ +(?:@\S+ +)?(?P<name>[A-Z][\w.]*)"
        )
        kernels, where = {}, ("", 0)
        for match in pattern.finditer(self.read("nvdisasm", "-c", "-g", cubin)):
            if match["kernel"]:
                code, where = kernels.setdefault(match["kernel"], []), ("", 0)
            elif match["file"]:
                where = match["file"], int(match["line"])
            else:
                code.append(Instruction(match["name"], *where))
        return kernels


@pytest.fixture(scope="module")
def tools():
    pytest.importorskip("setuptools")
    environment = {name: value for name, value in os.environ.items() if name != "PYLLMDECODE_CUDA_ARCHS"}
    with mock.patch("setuptools.setup"), mock.patch.object(sys, "path", [*sys.path]):
        setup = runpy.run_path(str(ROOT / "setup.py"))
    toolkit, why_not = setup["cuda_toolkit"].decide(environment)
    if toolkit is None:
        pytest.skip(f"the CUDA backend is not built: {why_not}")
    folders = [str(Path(toolkit.nvcc).parent), os.environ.get("PATH", "")]
    if triton := importlib.util.find_spec("triton"):
        folders.append(str(Path(triton.origin).parent / "backends" / "nvidia" / "bin"))
    path = os.pathsep.join(folders)
    for program in ("cuobjdump", "nvdisasm"):
        if shutil.which(program, path=path) is None:
            pytest.skip(f"{program} is neither beside nvcc, nor in PATH, nor in Triton's package")
    return Tools(shlex.split(setup["nvcc_command"](toolkit)), toolkit, path, setup["ninja_path"]())


@pytest.fixture(scope="module")
def kernels(tools, tmp_path_factory):
    """What the library has for GPUs, as `make build` has compiled it or, where that is older than the sources, anew."""
    if is_up_to_date(tools):
        return BUILT
    folder = tmp_path_factory.getbasetemp()
    if "PYTEST_XDIST_WORKER" in os.environ:  # once for all workers
        folder = folder.parent
    target = folder / "launch.fatbin"
    with open(folder / "launch.lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not target.exists():
            tools.compile(CSRC / "cuda" / "launch.cu", target, *shlex.split(tools.toolkit.gencode), "-fatbin")
    return target


def is_up_to_date(tools) -> bool:
    """Whether it was built with these flags, from what the sources say now."""
    script = BUILT.parent / "build.ninja"
    if not script.exists() or tools.toolkit.gencode not in script.read_text():
        return False
    done = subprocess.run([tools.ninja, "-n", "-f", script, BUILT], capture_output=True, text=True)
    return "no work to do" in done.stdout


def by_kernel(found) -> dict:
    """By dtype and kind, instead of by mangled names."""
    names = {name: re.search(r"(step|stream|rest)_kernelINS_6common\d+(\w+?)E(?:Lb([01]))?E", name) for name in found}
    kinds = {"0": "workspace", "1": "held"}
    named = {(match[2], kinds.get(match[3], match[1])): found[name] for name, match in names.items()}
    assert named.keys() == KERNELS and len(found) == len(KERNELS)
    return named


@pytest.fixture(scope="module")
def usage(tools, kernels):
    """Registers and the like of each kernel, for an architecture."""
    report = tools.read("cuobjdump", "--dump-resource-usage", kernels)
    parts = re.split(r"^Fatbin elf code:\n=*\narch = sm_(\w+)$", report, flags=re.MULTILINE)
    functions = {}
    for arch, text in zip(parts[1::2], parts[2::2]):
        pairs = re.findall(r"Function (\w+):\s+(REG:.*)", text)
        named = {name: {key: int(value) for key, value in re.findall(r"(\w+):(\d+)", line)} for name, line in pairs}
        functions[arch] = by_kernel(named)

    def of(arch):
        if f"sm_{arch}" in tools.toolkit.left_out:
            pytest.skip(tools.toolkit.left_out)
        return functions[arch]

    return of


@pytest.fixture(scope="module")
def sizes(tools, tmp_path_factory):
    """Threads of a block, and its shared memory where 5 blocks have 128256 tokens; 0 bytes: that is too much."""
    folder = tmp_path_factory.mktemp("sizes")
    (folder / "sizes.cu").write_text(SIZES % SHARED_OF_BLOCK)
    runtime = ["-cudart", "none", tools.toolkit.runtime, "-ldl", "-lrt", "-lpthread"]  # as setup.py links it
    program = tools.compile(folder / "sizes.cu", folder / "sizes", "-arch=sm_90", f"-I{CSRC}", *runtime)
    return json.loads(subprocess.check_output([program]))


@pytest.fixture(scope="module")
def code(tools, kernels, tmp_path_factory):
    """The instructions of each kernel for sm_90."""
    folder = tmp_path_factory.mktemp("code")
    tools.read("cuobjdump", "--extract-elf", "sm_90", kernels, cwd=folder)
    (cubin,) = folder.glob("*.sm_90.cubin")
    return by_kernel(tools.disassemble(cubin))


def fused(instructions):
    """Multiply-adds of the mass, which add_rn and mul_rn are there to prevent. Divisions elsewhere consist of them."""
    return [it for it in instructions if it.file == "mass.h" and it.name.startswith("FFMA")]


@pytest.mark.parametrize("arch", ["90", "100", "120"])
def test_nothing_is_spilled(usage, arch):
    for kernel, used in usage(arch).items():
        assert used["STACK"] == used["LOCAL"] == 0, f"{kernel}: {used}"


@pytest.mark.parametrize("arch", ["90", "100"])
def test_two_blocks_share_a_multiprocessor(usage, sizes, arch):
    """What the size of a block has been chosen for."""
    assert sizes["bytes"] > 0 and SHARED // (sizes["bytes"] + RESERVED) == 2
    for kernel, used in usage(arch).items():
        of_warp = -(-used["REG"] * 32 // UNIT) * UNIT
        blocks = REGISTERS // of_warp * PARTITIONS // (sizes["threads"] // 32)
        assert blocks >= (2 if kernel[1] in ("held", "stream") else 1), f"{kernel}: {used}"
        assert used["SHARED"] <= RESERVED, f"{kernel}: {used}"  # all else is asked for at launch


def test_masses_are_not_contracted(code):
    for kernel, instructions in code.items():
        assert not fused(instructions), kernel
        names = {it.name for it in instructions if it.file == "mass.h"}
        assert {"FADD", "FMUL"} <= names, f"{kernel}: mass.h has {names}"


@pytest.mark.parametrize("plain", [False, True])
def test_contracted_masses_would_be_seen(tools, tmp_path, plain):
    """Where multiply-adds are allowed, add_rn and mul_rn prevent them; plain additions and multiplications do not."""
    shutil.copytree(CSRC / "common", tmp_path, dirs_exist_ok=True)
    if plain:
        text = (tmp_path / "mass.h").read_text()
        text, count = re.subn(r"__f(add|mul)_rn\(a, b\)", lambda it: "a + b" if it[1] == "add" else "a * b", text)
        assert count == 2
        (tmp_path / "mass.h").write_text(text)
    (tmp_path / "masses.cu").write_text(MASSES)
    assert "-fmad=false" in tools.command
    allowed = tools._replace(command=[flag.replace("-fmad=false", "-fmad=true") for flag in tools.command])
    cubin = allowed.compile(tmp_path / "masses.cu", tmp_path / "masses.cubin", "-arch=sm_90", "-cubin")
    (instructions,) = tools.disassemble(cubin).values()
    assert any(it.file == "mass.h" for it in instructions)
    assert bool(fused(instructions)) == plain


def accesses(instructions, file, operations):
    """Loads or stores of the lines that speak of four tokens, by line."""
    lines = (CSRC / "cuda" / file).read_text().splitlines()
    found = {}
    for it in instructions:
        if it.file == file and re.search(r"\bFour\b", lines[it.line - 1]) and it.name.split(".")[0] in operations:
            found.setdefault(it.line, set()).add(it.name)
    return found


def test_memory_is_accessed_16_bytes_at_a_time(code):
    for kernel, instructions in code.items():
        if kernel[1] == "stream":
            continue
        names = [it.name for it in instructions]
        # .EF, evict first, is what reads logits. Four are under way before what they read is stored.
        wide = [place for place, name in enumerate(names) if re.fullmatch(r"LDG\.E\.EF\.128(\.\w+)*", name)]
        assert len(wide) >= 4, kernel
        assert not [name for name in names[wide[0] : wide[3]] if re.match(r"STS?\b", name)], kernel
        loads = accesses(instructions, "row.h", {"LD", "LDG", "LDS"})
        stores = accesses(instructions, "slice.h", {"ST", "STG", "STS"})
        assert len(loads) >= 3 and len(stores) >= 1, kernel  # the maximum, candidates, estimates
        assert all(".128" in name for found in (loads, stores) for it in found.values() for name in it), (loads, stores)
        assert not [name for name in names if re.match(r"(LDL|STL)\b", name)], kernel


def test_streamed_rows_come_by_bulk_copies(code):
    """And are compared two tokens at a time where they have 16 bits."""
    for kernel, instructions in code.items():
        names = [it.name for it in instructions]
        assert ("UBLKCP" in {name.split(".")[0] for name in names}) == (kernel[1] == "stream"), kernel
        if kernel[1] != "stream":
            continue
        packed = [name for name in names if re.match(r"HMNMX2\b.*NAN", name)]
        assert bool(packed) == (kernel[0] != "Float32"), kernel
        assert not [name for name in names if re.match(r"LDG.*128", name)], kernel
        loads = [it for it in instructions if it.file == "stream.h" and it.name.startswith("LDS.128")]
        assert len(loads) >= 3, kernel


def test_bins_are_added_to_in_words(code):
    """Shared memory has no 64-bit addition: it would be tried again until nobody came between."""
    for kernel, instructions in code.items():
        atomics = {it.name for it in instructions if it.name.startswith("ATOMS")}
        assert "ATOMS.ADD" in atomics, f"{kernel}: {atomics}"
        assert not [name for name in atomics if re.search(r"64|CAST|SPIN", name)], f"{kernel}: {atomics}"


def test_what_threads_share_without_order_is_accessed_atomically(code):
    """Penalties and bans write where others read at the same time."""
    for kernel, instructions in code.items():
        plain = {it.name for it in instructions if it.file == "atomics.h" and re.match(r"(LD|ST)[GS]?\b", it.name)}
        assert not plain, f"{kernel}: {plain}"


def test_clusters_and_dependent_launches(tools, kernels, code):
    text = tools.read("cuobjdump", "--dump-ptx", kernels)
    waits = len(re.findall(r"\bgriddepcontrol\.wait\b", text))
    assert waits == len(KERNELS)
    for kernel, instructions in code.items():
        names = [it.name for it in instructions]
        assert "UCGABAR_ARV" in names and "UCGABAR_WAIT" in names, kernel
        # Nothing that the kernel before may still be writing is read before it has ended.
        first = next(place for place, name in enumerate(names) if re.match(r"(LDG?|ATOMG?|REDG?)\b", name))
        assert "ACQBULK" in names[:first], kernel

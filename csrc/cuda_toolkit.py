"""CUDA's compiler: whether there is one, and what it can build. For setup.py.

Looked for in this order: PYLLMDECODE_NVCC, CUDA_HOME, CUDA_PATH, PATH, /usr/local/cuda, and Python's packages, where

    pip install nvidia-cuda-nvcc nvidia-cuda-runtime nvidia-cuda-crt nvidia-cuda-cccl nvidia-nvvm

puts it.
"""

import os
import re
import shlex
import shutil
import subprocess
import sys
import sysconfig
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

ARCHITECTURES = ["90", "100", "120"]


class Toolkit(NamedTuple):
    nvcc: str
    gencode: str  # nvcc's flags
    runtime: str  # libcudart_static.a
    left_out: str  # a sentence on architectures that are wanted and that this compiler does not know


class Unusable(Exception):
    """Why the CUDA backend cannot be built, without the full stop."""


def decide(environment: Mapping[str, str]) -> tuple[Toolkit | None, str]:
    """What to build with, or None and the reason. Unusable where that is an error: what was asked for cannot be had."""
    wish = environment.get("PYLLMDECODE_CUDA", "")
    if wish not in ("", "0", "1"):
        raise Unusable(f"PYLLMDECODE_CUDA: got {wish!r}; accepted: 0, 1, or unset")
    if wish == "0":
        return None, "PYLLMDECODE_CUDA=0"
    named = architectures(environment)
    try:
        return examine(find(environment), named), ""
    except Unusable as reason:
        if wish == "1":
            raise Unusable(f"PYLLMDECODE_CUDA=1, but {reason}") from None
        return None, str(reason)


def architectures(environment: Mapping[str, str]) -> list[str]:
    """Those that PYLLMDECODE_CUDA_ARCHS names, without sm_; none where it is not set."""
    text = environment.get("PYLLMDECODE_CUDA_ARCHS", "")
    names = re.split(r"[;,\s]+", text.strip(" ;,")) if text else []
    if not all(re.fullmatch(r"\d+[af]?", name) for name in names):
        raise Unusable(f"PYLLMDECODE_CUDA_ARCHS: got {text!r}; accepted: numbers such as 90 or 90a;100")
    return names


def find(environment: Mapping[str, str]) -> str:
    """The path of nvcc."""
    named = environment.get("PYLLMDECODE_NVCC")
    if named:
        if found := shutil.which(named):
            return _unlinked(found)
        raise Unusable(f"PYLLMDECODE_NVCC is {named!r}, which is no program")
    folders = [os.path.join(environment[name], "bin") for name in ("CUDA_HOME", "CUDA_PATH") if environment.get(name)]
    folders += filter(None, environment.get("PATH", "").split(os.pathsep))
    folders += ["/usr/local/cuda/bin"]
    # pip's isolated builds leave the environment's own packages out of sys.path.
    packages = dict.fromkeys([*filter(None, sys.path), sysconfig.get_path("purelib"), sysconfig.get_path("platlib")])
    folders += [str(folder) for place in packages for folder in Path(place).glob("nvidia/cu*/bin")]
    if found := shutil.which("nvcc", path=os.pathsep.join(folders)):
        return _unlinked(found)
    raise Unusable("no nvcc was found in CUDA_HOME, PATH, /usr/local/cuda or Python's packages")


def _unlinked(nvcc: str) -> str:
    """nvcc looks for its parts beside the name it was called by, so not by a link; a link to ccache stays, though."""
    target = os.path.realpath(nvcc)
    return target if os.path.basename(target) == "nvcc" else os.path.abspath(nvcc)


def examine(nvcc: str, named: list[str]) -> Toolkit:
    known = set(re.findall(r"compute_(\d+)", _ask(nvcc, "--list-gpu-arch")))
    wanted = named or ARCHITECTURES
    built = [name for name in wanted if name.rstrip("af") in known]
    unknown = ", ".join(f"sm_{name}" for name in wanted if name not in built)
    if not built:
        raise Unusable(f"{nvcc} does not know {unknown}")
    codes = [(name, f"sm_{name}") for name in built]
    if not named:
        codes.append((built[0], f"compute_{built[0]}"))  # PTX, which the driver compiles for later GPUs
    # nvcc may be a script anywhere, and distributions lay toolkits out in their own ways: nvcc knows where things are.
    plan = _ask(nvcc, "--dryrun", "-c", str(Path(__file__).parent / "cuda" / "launch.cu"))
    folders = [word[2:] for word in _setting(plan, "LIBRARIES") if word.startswith("-L")]
    folders += [os.path.join(top, name) for top in _setting(plan, "TOP") for name in ("lib64", "lib")]
    runtimes = [path for folder in folders if (path := Path(folder, "libcudart_static.a")).exists()]
    if not runtimes:
        raise Unusable(f"{nvcc} comes without libcudart_static.a (looked for in {', '.join(folders) or 'no folder'})")
    return Toolkit(
        nvcc,
        " ".join(f"-gencode arch=compute_{name},code={code}" for name, code in codes),
        str(runtimes[0].resolve()),
        f"{nvcc} does not know {unknown}, which the CUDA backend is built without." if unknown else "",
    )


def _ask(*command: str) -> str:
    try:
        done = subprocess.run(command, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, timeout=60)
    except (OSError, subprocess.TimeoutExpired) as error:
        raise Unusable(f"{command[0]} does not run ({error})") from None
    if done.returncode:
        raise Unusable(f"'{shlex.join(command)}' failed: {done.stdout.strip()}")
    return done.stdout


def _setting(plan: str, name: str) -> list[str]:
    """The words of a line such as `#$ LIBRARIES=  "-L/usr/local/cuda/lib64"`."""
    line = re.search(rf"^#\$ {name}=(.*)$", plan, re.MULTILINE)
    return shlex.split(line[1]) if line else []

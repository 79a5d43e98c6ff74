"""Compiles the CUDA sources of FlashInfer's samplers that pack_peers.py packed.

    python -m bench.gpu.build_peers [FOLDER] [--arch 9.0a]        (default: build/peers, for the GPU of this machine)

Needs nvcc, ninja and torch, and a GPU only where --arch is not given: so it can also be done in advance for one kind of
GPU. The libraries land in FOLDER, where FlashInfer finds them without compiling again. The modules are compiled beside
each other, and one that fails or takes too long does not hold up the others.
"""

import argparse
import os
import re
import shutil
import signal
import subprocess
import sys
import tarfile
from pathlib import Path
from time import monotonic, sleep

ROOT = Path(__file__).parent.parent.parent
# Module -> what makes its build specification. The last is one source of 48 MB.
MODULES = {
    "sampling": "from flashinfer.jit.sampling import gen_sampling_module as make",
    "topk": "from flashinfer.jit.topk import gen_topk_module as make",
    "cake_sampling": "from flashinfer.jit.cake_sampling import gen_cake_sampling_module as make",
}
BUILD = "{imports}; spec = make(); spec.build(); print(spec.name, spec.get_library_path(), sep='\\n')"
MADE_FOR = "made-for.txt"  # beside a library: the compute capability


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", nargs="?", type=Path, default=ROOT / "build" / "peers")
    parser.add_argument("--arch", default="", help="compute capability, such as 9.0a")
    parser.add_argument("--seconds", type=float, default=3600, help="in all (default: %(default)g)")
    parser.add_argument("--only", nargs="+", choices=MODULES, default=list(MODULES))
    arguments = parser.parse_args()
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # as Ctrl-C: ends the compilers too
    folder = arguments.folder.resolve()
    if "cake_sampling" in arguments.only:  # wants its sources also where it has been compiled
        with tarfile.open(folder / "cake_sampling.tar.xz") as archive:
            archive.extractall(folder, filter="data")
    arch = arguments.arch or capability()
    running = {}
    begin = monotonic()
    built = True
    try:
        for module in arguments.only:
            if is_there(folder, module, arch):
                print(f"{module}: was there", flush=True)
            else:
                running[module] = start(folder, module, arch, in_advance=bool(arguments.arch))
        while running and monotonic() - begin < arguments.seconds:
            sleep(0.2)
            for module in [module for module, process in running.items() if process.poll() is not None]:
                result = finish(folder, module, running.pop(module), arch)
                built = built and "NOT BUILT" not in result
                print(f"{module}: {result}, {monotonic() - begin:.0f} s", flush=True)
    finally:
        for module, process in running.items():
            os.killpg(process.pid, signal.SIGKILL)
            print(f"{module}: NOT BUILT, not done after {monotonic() - begin:.0f} s", flush=True)
        if arguments.arch:  # to be carried elsewhere, where they are unpacked again
            shutil.rmtree(folder / "flashinfer/data/csrc/cake_sampling/generated", ignore_errors=True)
    return 0 if built and not running else 1


def capability() -> str:
    """Of the GPU here, as FlashInfer names it."""
    import torch

    if not torch.cuda.is_available():
        raise SystemExit("torch finds no GPU: name one by --arch, such as 9.0a")
    major, minor = torch.cuda.get_device_capability()
    return f"{major}.{minor}{'a' if major >= 9 else ''}"


def libraries(folder: Path) -> Path:
    """Where FlashInfer looks for modules compiled in advance."""
    return folder / "flashinfer" / "data" / "aot"


def is_there(folder: Path, module: str, arch: str) -> bool:
    """Whether it has been compiled for this GPU; one for another GPU would be loaded and fail, and is removed."""
    for made in libraries(folder).glob(f"{module}*/{MADE_FOR}"):
        if made.read_text() == arch:
            return True
        shutil.rmtree(made.parent)
    return False


def start(folder: Path, module: str, arch: str, in_advance: bool) -> subprocess.Popen:
    cuda = cuda_folder()
    environment = os.environ | {
        "CUDA_HOME": str(cuda),
        "FLASHINFER_CUDA_ARCH_LIST": arch,
        "FLASHINFER_WORKSPACE_BASE": str(scratch(folder, module)),
        # One source has a hundred kernels: let the compiler's back end work on several at a time.
        "FLASHINFER_EXTRA_CUDAFLAGS": os.environ.get("FLASHINFER_EXTRA_CUDAFLAGS", "--split-compile=0"),
        "PYTHONPATH": os.pathsep.join(filter(None, (str(folder), os.environ.get("PYTHONPATH", "")))),
    }
    if in_advance or not list((cuda / "lib64").glob("libcudart.so")):
        environment["FLASHINFER_EXTRA_LDFLAGS"] = f"-L{stand_ins(folder, cuda)}"
    scratch(folder, module).mkdir(parents=True, exist_ok=True)
    command = [sys.executable, "-c", BUILD.format(imports=MODULES[module])]
    with open(log(folder, module), "w") as file:
        # A process group of its own, so that a compiler that takes too long can be ended with all it has started.
        return subprocess.Popen(command, env=environment, stdout=file, stderr=file, start_new_session=True)


def finish(folder: Path, module: str, process: subprocess.Popen, arch: str) -> str:
    lines = log(folder, module).read_text().splitlines()
    if process.returncode:
        why = [line for line in lines if re.search(r"\berror\b", line, re.I)] or lines
        return f"NOT BUILT ({log(folder, module)}): {why[-1] if why else process.returncode}"
    name, made = lines[-2:]
    target = libraries(folder) / name
    target.mkdir(parents=True, exist_ok=True)
    shutil.copy(made, target / f"{name}.so")
    (target / MADE_FOR).write_text(arch)
    shutil.rmtree(scratch(folder, module))
    return f"{(target / f'{name}.so').stat().st_size / 1e6:.1f} MB for {arch}"


def scratch(folder: Path, module: str) -> Path:
    return folder.parent / f"{folder.name}-scratch" / module


def log(folder: Path, module: str) -> Path:
    return scratch(folder, module) / "log.txt"


def cuda_folder() -> Path:
    """Where nvcc and its headers are: nvcc in PATH may be a link or a script elsewhere."""
    named = os.environ.get("CUDA_HOME") or os.environ.get("CUDA_PATH")
    nvcc = shutil.which("nvcc")
    candidates = [Path(named)] if named else []
    candidates += [Path(nvcc).resolve().parent.parent] if nvcc else []
    for folder in (*candidates, Path("/usr/local/cuda")):
        if (folder / "include" / "cuda_runtime.h").exists() and (folder / "bin" / "nvcc").exists():
            return folder
    raise SystemExit("nvcc and cuda_runtime.h were not found: set CUDA_HOME")


def stand_ins(folder: Path, cuda: Path) -> Path:
    """A folder with empty libraries of the names that the linker asks for.

    The real ones are found where the result is loaded: the driver's, and the one that torch has loaded by then.
    """
    made = scratch(folder, "stand-ins")
    made.mkdir(parents=True, exist_ok=True)
    header = (cuda / "include" / "cuda_runtime_api.h").read_text(errors="replace")
    major = int(re.search(r"define\s+CUDART_VERSION\s+(\d+)", header)[1]) // 1000
    for name, soname in (("cudart", f"libcudart.so.{major}"), ("cuda", "libcuda.so.1")):
        library = str(made / f"lib{name}.so")
        command = ["gcc", "-shared", "-x", "c", "/dev/null", f"-Wl,-soname,{soname}", "-o", library]
        subprocess.run(command, check=True)
    return made


if __name__ == "__main__":
    sys.exit(main())

"""Packs the samplers of FlashInfer and vLLM for a GPU machine that reaches no package registry.

    python -m bench.gpu.pack_peers [FOLDER] [--python 3.12]        (default: build/peers)

With FOLDER on PYTHONPATH, `import flashinfer.sampling` works there, and so do vLLM's sampler kernels. Only the
samplers' sources and what these need are kept, unchanged: FlashInfer's wheel is 62 MB and vLLM's 340 MB, of which byte
ranges are read. Then build_peers.py compiles FlashInfer's CUDA sources, there or here. PyPI must be in reach.
"""

import argparse
import io
import json
import re
import shutil
import subprocess
import sys
import tarfile
import tempfile
import urllib.request
import zipfile
from html.parser import HTMLParser
from pathlib import Path, PurePosixPath
from urllib.parse import urldefrag, urljoin

from .peer_shims import FLASHINFER_SHIM, VLLM_SHIMS

ROOT = Path(__file__).parent.parent.parent
LIMIT = 40 * 10**6  # bytes; what a GPU machine accepts at once may be little

# The versions that gpu_peers.py was written against, the newest of 2026-11-20.
FLASHINFER, VLLM = "0.7.2.post1", "0.33.0"
# What FlashInfer imports beyond torch's and transformers' own dependencies.
FLASHINFER_NEEDS = ("apache-tvm-ffi>=0.1.11,<0.2", "nvidia-ml-py")
CURAND = "10.4.0.35"  # of CUDA 13.0, for its headers, which come with few compilers

# Compiled by build_peers.py; everything they include comes along.
CUDA_SOURCES = (
    "sampling.cu renorm.cu flashinfer_sampling_binding.cu topk.cu cub_topk.cu flashinfer_topk_binding.cu "
    "flashinfer_fast_topk_clusters_binding.cu cake_sampling/cake_sampling_binding.cuh"
).split()
INCLUDE_FOLDERS = ("cccl/cub", "cccl/libcudacxx/include", "cccl/thrust", "include", "csrc", "csrc/cake_sampling")
DATA = "flashinfer/data"
GENERATED = f"{DATA}/csrc/cake_sampling/generated/"  # 48 MB of text, a third of a MB compressed
PYTHON_FILES = re.compile(r"flashinfer/([^/]+|(jit|trace)/.*)\.py$")

VLLM_FILES = (
    "vllm/model_executor/warmup/jit_warmup.py",
    "vllm/model_executor/warmup/jit_warmup_triton_helper.py",
    "vllm/utils/math_utils.py",
    "vllm/v1/sample/ops/topk_topp_triton.py",
    "vllm/v1/worker/gpu/sample/gumbel.py",
    "vllm/v1/worker/gpu/sample/logits_processor/interface.py",
    "vllm/v1/worker/gpu/sample/penalties.py",
)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", nargs="?", type=Path, default=ROOT / "build" / "peers")
    parser.add_argument("--python", default=f"{sys.version_info.major}.{sys.version_info.minor}", metavar="3.12")
    parser.add_argument("--flashinfer", default=FLASHINFER, metavar="VERSION")
    parser.add_argument("--vllm", default=VLLM, metavar="VERSION")
    arguments = parser.parse_args()

    folder, compiled = arguments.folder, arguments.folder / DATA / "aot"
    with tempfile.TemporaryDirectory() as scratch:
        before = json.loads((folder / "peers.json").read_text()) if (folder / "peers.json").exists() else None
        if before is not None:  # written by this script, so nothing of anyone else's is lost
            if before.get("flashinfer") == arguments.flashinfer and compiled.exists():
                shutil.move(compiled, Path(scratch) / "compiled")
            shutil.rmtree(folder)
        elif folder.exists() and any(folder.iterdir()):
            raise SystemExit(f"{folder}: not empty and not packed by this script; name another folder")
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "peers.json").write_text("{}\n")
        pack_flashinfer(folder, Path(scratch), arguments.flashinfer, arguments.python)
        if (Path(scratch) / "compiled").exists():  # by build_peers.py, from the same sources
            shutil.move(Path(scratch) / "compiled", compiled)
    pack_vllm(folder, arguments.vllm)
    files = [file for file in folder.rglob("*") if file.is_file() and compiled not in file.parents]
    size = sum(file.stat().st_size for file in files)
    made = {"flashinfer": arguments.flashinfer, "vllm": arguments.vllm, "python": arguments.python, "bytes": size}
    (folder / "peers.json").write_text(json.dumps(made, indent=1) + "\n")
    print(f"{folder}: {size / 1e6:.1f} MB")
    if size > LIMIT:
        raise SystemExit(f"that is more than {LIMIT / 1e6:.0f} MB")


def pack_flashinfer(folder: Path, scratch: Path, version: str, python: str) -> None:
    print(f"FlashInfer {version}: downloading its wheel (some 60 MB)")
    wheel = download(scratch / "flashinfer", f"flashinfer-python=={version}")
    with zipfile.ZipFile(wheel) as archive:
        names = set(archive.namelist())
        wanted = {name for name in names if PYTHON_FILES.fullmatch(name) or ".dist-info/licenses/" in name}
        wanted |= included(archive, names)
        wanted -= {"flashinfer/__init__.py"}
        for name in sorted(wanted):
            write(folder / name, archive.read(name))
        with tarfile.open(folder / "cake_sampling.tar.xz", "w:xz") as generated:
            for name in sorted(name for name in names if name.startswith(GENERATED)):
                entry = tarfile.TarInfo(name)
                entry.size = archive.getinfo(name).file_size
                generated.addfile(entry, io.BytesIO(archive.read(name)))
    # The package's own __init__ imports everything that FlashInfer has.
    write(folder / "flashinfer/__init__.py", FLASHINFER_SHIM.encode())
    for requirement in FLASHINFER_NEEDS:
        print(f"FlashInfer's {requirement}")
        with zipfile.ZipFile(download(scratch / requirement[:6], requirement, python)) as archive:
            for name in archive.namelist():
                if name.startswith(("tvm_ffi/", "pynvml", "apache_", "nvidia_")) and not name.endswith(("/", "RECORD")):
                    write(folder / name, archive.read(name))
    with remote_wheel("nvidia-curand", CURAND) as archive:  # looked into only after the toolkit's own
        for name in archive.namelist():
            if re.fullmatch(r".*/include/curand[^/]*\.h", name):
                write(folder / DATA / "include" / Path(name).name, archive.read(name))


def included(archive: zipfile.ZipFile, names: set[str]) -> set[str]:
    """The CUDA sources and every file of the wheel that they could include, whatever the preprocessor decides."""
    found, todo = set(), [f"{DATA}/csrc/{name}" for name in CUDA_SOURCES]
    while todo:
        name = todo.pop()
        if name in found:
            continue
        found.add(name)
        text = archive.read(name).decode(errors="replace")
        for target in re.findall(r'^\s*#\s*include\s*[<"]([^>"]+)[>"]', text, re.M):
            for base in (str(PurePosixPath(name).parent), *(f"{DATA}/{include}" for include in INCLUDE_FOLDERS)):
                candidate = normal(f"{base}/{target}")
                if candidate in names:  # otherwise the compiler's or the toolkit's
                    todo.append(candidate)
                    break
    return {name for name in found if not name.startswith(GENERATED)}


def normal(path: str) -> str:
    parts: list[str] = []
    for part in path.split("/"):
        if part == "..":
            parts.pop()
        elif part != ".":
            parts.append(part)
    return "/".join(parts)


def pack_vllm(folder: Path, version: str) -> None:
    print(f"vLLM {version}: reading its sampler's files out of the published wheel")
    with remote_wheel("vllm", version) as archive:
        for name in VLLM_FILES:
            write(folder / name, archive.read(name))
        for name in archive.namelist():
            if re.fullmatch(r"vllm-[^/]+\.dist-info/licenses/[^/]+", name):
                write(folder / name, archive.read(name))
    # What those files import from the rest of vLLM, which is far more than the sampler needs.
    for name, text in VLLM_SHIMS.items():
        write(folder / name, text.replace("VERSION", version).encode())


def download(folder: Path, requirement: str, python: str | None = None) -> Path:
    """One wheel by pip, without what it requires; `python`: of that version, for Linux on x86-64."""
    command = [sys.executable, "-m", "pip", "download", "-q", "--no-deps", "--only-binary=:all:", "-d", str(folder)]
    if python:
        command += ["--python-version", python, "--implementation", "cp"]
        for glibc in (17, 24, 27, 28):
            command += ["--platform", f"manylinux_2_{glibc}_x86_64"]
        command += ["--platform", "manylinux2014_x86_64"]
    subprocess.run([*command, requirement], check=True)
    (wheel,) = folder.glob("*.whl")
    return wheel


def write(path: Path, content: bytes) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)


class Links(HTMLParser):
    def __init__(self, text: str):
        super().__init__()
        self.found: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag, attributes):
        self.found += [value for name, value in attributes if tag == "a" and name == "href"]


def remote_wheel(project: str, version: str) -> zipfile.ZipFile:
    return zipfile.ZipFile(io.BufferedReader(Remote(wheel_address(project, version)), 2**18))


def wheel_address(project: str, version: str) -> str:
    index = f"https://pypi.org/simple/{project}/"
    with urllib.request.urlopen(index, timeout=60) as answer:
        links = Links(answer.read().decode()).found
    for link in links:
        address = urldefrag(urljoin(index, link)).url
        if re.search(rf"/{project.replace('-', '_')}-{re.escape(version)}-[^/]*x86_64\.whl$", address):
            return address
    raise SystemExit(f"{index}: no wheel of {version} for x86-64")


class Remote(io.RawIOBase):
    """A file on a web server, of which only the parts that are read are fetched."""

    def __init__(self, address: str):
        self.address, self.position = address, 0
        with urllib.request.urlopen(urllib.request.Request(address, method="HEAD"), timeout=60) as answer:
            self.size = int(answer.headers["Content-Length"])

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def tell(self) -> int:
        return self.position

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        self.position = offset + {io.SEEK_SET: 0, io.SEEK_CUR: self.position, io.SEEK_END: self.size}[whence]
        return self.position

    def readinto(self, buffer) -> int:
        count = min(len(buffer), self.size - self.position)
        if count <= 0:
            return 0
        span = f"bytes={self.position}-{self.position + count - 1}"
        with urllib.request.urlopen(
            urllib.request.Request(self.address, headers={"Range": span}), timeout=60
        ) as answer:
            if answer.status != 206:
                raise OSError(f"{self.address}: the server does not serve parts of a file")
            part = answer.read()
        buffer[: len(part)] = part
        self.position += len(part)
        return len(part)


if __name__ == "__main__":
    main()

"""What setup.py builds: the decision about CUDA with pretended compilers, and the library that came of it."""

import importlib.util
import os
import re
import shutil
import subprocess
import sys
import sysconfig
from pathlib import Path
from types import SimpleNamespace

import pytest

import pyllmdecode as pld

ROOT = Path(__file__).resolve().parent.parent.parent
SUFFIX = sysconfig.get_config_var("EXT_SUFFIX")
CUDA_VARIABLES = ("PYLLMDECODE_CUDA", "PYLLMDECODE_CUDA_ARCHS", "PYLLMDECODE_CUDA_ON_THREADS", "PYLLMDECODE_NVCC")


def _load(path):
    spec = importlib.util.spec_from_file_location(path.stem, path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


cuda_toolkit = _load(ROOT / "csrc" / "cuda_toolkit.py")
decide, Unusable = cuda_toolkit.decide, cuda_toolkit.Unusable


def script(path, *lines):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("\n".join(["#!/bin/sh", *lines, ""]))
    path.chmod(0o755)
    return path


def compiler(path, *lines):
    """Compiles anything at once, after what `lines` do."""
    return script(path, *lines, 'while [ "$1" != -o ]; do shift; done', 'echo compiled > "$2"')


def toolkit(root, known="80 90 100 120", lib="lib64", runtime=True):
    """A toolkit whose nvcc compiles anything at once, and is found by CUDA_HOME=root."""
    (root / lib).mkdir(parents=True)
    if runtime:
        (root / lib / "libcudart_static.a").touch()
    answers = [
        'case "$1" in',
        f"--list-gpu-arch) printf 'compute_%s\\n' {known}; exit ;;",
        f"--dryrun) echo '#$ TOP={root}' >&2; echo '#$ LIBRARIES=  \"-L{root}/{lib}/stubs\"' >&2; exit ;;",
        "esac",
    ]
    return compiler(root / "bin" / "nvcc", *answers)


@pytest.fixture
def bare(monkeypatch, tmp_path):
    """Hides the compilers of this machine and of Python's packages: there are those that a test makes."""

    def which(name, path=None):
        return shutil.which(name, path=path and os.pathsep.join(re.findall(f"{tmp_path}[^{os.pathsep}]*", path)))

    monkeypatch.setattr(cuda_toolkit, "shutil", SimpleNamespace(which=which))


def codes(chosen):
    return re.findall(r"arch=compute_(\w+),code=(\w+)", chosen.gencode)


def test_without_nvcc(bare):
    chosen, reason = decide({})
    assert chosen is None and reason == "no nvcc was found in CUDA_HOME, PATH, /usr/local/cuda or Python's packages"
    with pytest.raises(Unusable, match="PYLLMDECODE_CUDA=1, but no nvcc was found"):
        decide({"PYLLMDECODE_CUDA": "1"})


def test_left_out_by_request(tmp_path):
    toolkit(tmp_path)
    environment = {"PYLLMDECODE_CUDA": "0", "CUDA_HOME": str(tmp_path), "PYLLMDECODE_CUDA_ARCHS": "?"}
    assert decide(environment) == (None, "PYLLMDECODE_CUDA=0")


@pytest.mark.parametrize("wish", ["", "1"])
def test_places(tmp_path, bare, wish):
    """In this order: each that is added is taken instead of those before."""
    environment = {"PYLLMDECODE_CUDA": wish, "PATH": "/usr/bin"}
    for name, below in [("PATH", "/bin"), ("CUDA_PATH", ""), ("CUDA_HOME", ""), ("PYLLMDECODE_NVCC", "/bin/nvcc")]:
        nvcc = toolkit(tmp_path / name)
        environment[name] = f"{tmp_path / name}{below}"
        chosen, reason = decide(environment)
        assert chosen.nvcc == str(nvcc) and reason == "" and chosen.left_out == ""
        assert chosen.runtime == str(tmp_path / name / "lib64" / "libcudart_static.a")


def test_packages(tmp_path, bare, monkeypatch):
    monkeypatch.setattr(sys, "path", [str(tmp_path)])
    nvcc = toolkit(tmp_path / "nvidia" / "cu13", lib="lib")
    assert decide({})[0].nvcc == str(nvcc)


def test_link_to_nvcc(tmp_path):
    nvcc = toolkit(tmp_path / "toolkit")
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin" / "nvcc").symlink_to(nvcc)
    assert decide({"PATH": str(tmp_path / "bin")})[0].nvcc == str(nvcc)


def test_compilers_that_do_not_work(tmp_path):
    failing = script(tmp_path / "failing", "echo broken; exit 3")
    without = toolkit(tmp_path / "without", runtime=False)
    old = toolkit(tmp_path / "old", known="70 80")
    for nvcc, words in [
        (tmp_path / "none", "PYLLMDECODE_NVCC is '.*none', which is no program"),
        (failing, "'.*failing --list-gpu-arch' failed: broken"),
        (without, r"nvcc comes without libcudart_static.a \(looked for in .*/lib64"),
        (old, "nvcc does not know sm_90, sm_100, sm_120"),
    ]:
        chosen, reason = decide({"PYLLMDECODE_NVCC": str(nvcc)})
        assert chosen is None and re.match(f"(?:{re.escape(str(tmp_path))}.*)?{words}", reason)
        with pytest.raises(Unusable, match=words):
            decide({"PYLLMDECODE_NVCC": str(nvcc), "PYLLMDECODE_CUDA": "1"})


def test_architectures(tmp_path):
    new, old = toolkit(tmp_path / "new"), toolkit(tmp_path / "old", known="80 90")
    chosen, _ = decide({"PYLLMDECODE_NVCC": str(new)})
    assert codes(chosen) == [("90", "sm_90"), ("100", "sm_100"), ("120", "sm_120"), ("90", "compute_90")]
    chosen, _ = decide({"PYLLMDECODE_NVCC": str(old)})
    assert codes(chosen) == [("90", "sm_90"), ("90", "compute_90")]
    assert chosen.left_out == f"{old} does not know sm_100, sm_120, which the CUDA backend is built without."
    for text, expected in [
        ("90", [("90", "sm_90")]),
        ("90a;100", [("90a", "sm_90a"), ("100", "sm_100")]),
        (" 80, 120f;", [("80", "sm_80"), ("120f", "sm_120f")]),
        ("90;75", [("90", "sm_90")]),
    ]:
        assert codes(decide({"PYLLMDECODE_NVCC": str(new), "PYLLMDECODE_CUDA_ARCHS": text})[0]) == expected
    assert decide({"PYLLMDECODE_NVCC": str(new), "PYLLMDECODE_CUDA_ARCHS": "75"})[1] == f"{new} does not know sm_75"


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("PYLLMDECODE_CUDA", "yes"),
        ("PYLLMDECODE_CUDA_ARCHS", "sm_90"),
        ("PYLLMDECODE_CUDA_ARCHS", "9.0"),
        ("PYLLMDECODE_CUDA_ARCHS", "90;;x"),
    ],
)
def test_values_that_are_not_accepted(name, value):
    with pytest.raises(Unusable, match=rf"{name}: got '{re.escape(value)}'; accepted: "):
        decide({name: value})


@pytest.fixture
def build(tmp_path):
    """Runs setup.py with a compiler that writes its outputs at once; gives the libraries and what was said."""
    if importlib.util.find_spec("setuptools") is None:
        pytest.skip("setuptools is not installed")
    cxx = compiler(tmp_path / "cxx")
    tree = tmp_path / "tree"
    shutil.copytree(ROOT / "csrc", tree / "csrc")
    (tree / "pyllmdecode").mkdir()
    for name in ("setup.py", "pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, tree)

    def run(**environment):
        kept = {name: value for name, value in os.environ.items() if name not in CUDA_VARIABLES}
        kept |= {"CXX": str(cxx), "PYLLMDECODE_BUILD_DIR": str(tmp_path / "objects"), **environment}
        command = [sys.executable, "setup.py", "-q", "build_ext", "--inplace", "--build-lib", "lib"]
        done = subprocess.run(command, cwd=tree, env=kept, capture_output=True, text=True, timeout=120)
        here, there = ({path.name for path in (one / "pyllmdecode").glob("*.so")} for one in (tree, tree / "lib"))
        assert here == there or done.returncode
        return done.returncode, {name.removesuffix(SUFFIX) for name in here}, done.stdout + done.stderr

    return run


def test_setup_builds_what_was_decided(build, tmp_path):
    """Each call finds what the ones before have left."""
    nvcc = toolkit(tmp_path / "toolkit")
    everything = {"PYLLMDECODE_NVCC": str(nvcc), "PYLLMDECODE_CUDA_ON_THREADS": "1"}
    status, built, output = build(**everything)
    assert status == 0 and built == {"_cpu", "_cuda", "_cuda_on_threads"}, output
    assert "not built" not in output
    status, built, output = build(PYLLMDECODE_CUDA="0")
    assert status == 0 and built == {"_cpu"}, output
    assert "The CUDA backend is not built: PYLLMDECODE_CUDA=0." in output
    status, _, output = build(PYLLMDECODE_CUDA="1", PYLLMDECODE_NVCC="/nowhere")
    assert status != 0 and "error: PYLLMDECODE_CUDA=1, but PYLLMDECODE_NVCC is '/nowhere'" in output

    status, built, output = build(**everything)
    assert status == 0 and "_cuda" in built, output
    nvcc.write_text(nvcc.read_text().replace("esac", "esac; echo out of order; exit 1"))
    (tmp_path / "objects" / "_cuda.launch.o").unlink()
    status, built, output = build(PYLLMDECODE_NVCC=str(nvcc))
    assert status == 0 and built == {"_cpu"}, output
    assert "out of order" in output and "The CUDA backend is not built: it did not compile, see above." in output
    status, _, output = build(PYLLMDECODE_NVCC=str(nvcc), PYLLMDECODE_CUDA="1")
    assert status != 0 and "out of order" in output


def test_setup_fails_where_the_cpu_backend_does(build, tmp_path):
    failing = script(tmp_path / "failing", "echo out of order; exit 1")
    status, built, output = build(CXX=str(failing), PYLLMDECODE_CUDA="0")
    assert status != 0 and not built and "out of order" in output


@pytest.fixture(scope="module")
def library():
    path = Path(pld.__file__).parent / f"_cuda{SUFFIX}"
    if not path.exists():
        pytest.skip("_cuda is not built: there was no nvcc, or PYLLMDECODE_CUDA=0")
    return path


def test_cuda_library_loads_anywhere(library):
    """Without torch, without CUDA's libraries, without a GPU."""
    code = f"""
import importlib.util, sys
spec = importlib.util.spec_from_file_location("pyllmdecode._cuda", {str(library)!r})
spec.loader.exec_module(importlib.util.module_from_spec(spec))
assert "torch" not in sys.modules
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr


def test_cuda_library_needs_the_system_alone(library):
    if shutil.which("readelf") is None:
        pytest.skip("readelf is not installed")
    text = subprocess.run(["readelf", "-d", library], capture_output=True, text=True, check=True).stdout
    needed = re.findall(r"\(NEEDED\).*\[(.*?)\]", text)
    system = r"(libstdc\+\+|libgcc_s|libc|libm|libdl|librt|libpthread|ld-linux[\w-]*)\.so\.\d+"
    assert needed and all(re.fullmatch(system, name) for name in needed), needed

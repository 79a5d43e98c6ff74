"""What is handed on: the source distribution, what of it is installed, and the page that a registry shows."""

import email
import importlib.util
import os
import re
import shutil
import subprocess
import sys
import tarfile
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent.parent
MADE = shutil.ignore_patterns(".git", ".venv", "build", "*.so", "*.egg-info", "__pycache__", ".*_cache", ".hypothesis")
REPOSITORY = "https://github.com/pyllmdecode/pyllmdecode"
pytestmark = pytest.mark.skipif(importlib.util.find_spec("setuptools") is None, reason="setuptools is not installed")


def run(*command, cwd, **environment):
    done = subprocess.run(
        [sys.executable, *command], cwd=cwd, env=os.environ | environment, capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def sources(tmp_path_factory):
    """An unpacked source distribution."""
    folder = tmp_path_factory.mktemp("sources")
    shutil.copytree(ROOT, folder / "tree", symlinks=True, ignore=MADE)
    run("setup.py", "-q", "sdist", "-d", str(folder), cwd=folder / "tree")
    (archive,) = folder.glob("pyllmdecode-*.tar.gz")
    with tarfile.open(archive) as files:
        files.extractall(folder, filter="data")
    return folder / archive.name.removesuffix(".tar.gz")


def test_everything_but_what_was_made_is_in_the_sources(sources):
    folders = ("bench", "csrc", "docs", "kernels", "pyllmdecode", "tests", ".ci")
    files = ("*.md", "*.toml", "*.in", "setup.py", "constraints.txt", "Makefile", "LICENSE", ".clang-format")
    tree = sources.parent / "tree"
    there = {
        path.relative_to(tree)
        for pattern in (*folders, *files)
        for found in tree.glob(pattern)
        for path in (found.rglob("*") if found.is_dir() else [found])
        if path.is_file() and "egg-info" not in str(path)
    }
    assert len(there) > 150
    kept = {path.relative_to(sources) for path in sources.rglob("*") if path.is_file()}
    assert not there - kept, there - kept
    assert (sources / "pyllmdecode" / "kernels").readlink() == (ROOT / "pyllmdecode" / "kernels").readlink()


@pytest.mark.thorough
def test_the_tests_are_found_in_the_sources(sources):
    """The same as here, with the libraries that building there would make."""
    for library in (ROOT / "pyllmdecode").glob("*.so"):
        shutil.copy(library, sources / "pyllmdecode")
    command = ("-m", "pytest", "--thorough", "--collect-only", "-q", "-p", "no:cacheprovider")
    there, here = (
        {line for line in run(*command, cwd=tree, PYTHONPATH=str(tree)).splitlines() if "::" in line}
        for tree in (sources, ROOT)
    )
    assert there == here and len(there) > 1000


def test_what_is_installed(sources, tmp_path):
    """The package, its types and the Triton kernels; neither tests nor benchmarks."""
    run("setup.py", "-q", "build_py", "--build-lib", str(tmp_path / "lib"), cwd=sources)
    assert [path.name for path in (tmp_path / "lib").iterdir()] == ["pyllmdecode"]
    installed = {str(path.relative_to(tmp_path / "lib")) for path in (tmp_path / "lib").rglob("*") if path.is_file()}
    assert {"pyllmdecode/py.typed", "pyllmdecode/kernels/sample_step.py"} <= installed
    written = {path.relative_to(ROOT) for path in (ROOT / "pyllmdecode").rglob("*.py")}
    assert {str(path) for path in written} <= installed


def test_links_of_the_page_that_a_registry_shows(sources):
    """Each leads to a file of the repository or to a heading, and a picture to the picture itself."""
    page = email.message_from_string((sources / "PKG-INFO").read_text())
    assert page["Description-Content-Type"] == "text/markdown" and page["Name"] == "pyllmdecode"
    urls = dict(line.split(", ") for line in page.get_all("Project-URL"))
    assert urls["Repository"] == REPOSITORY and urls.keys() >= {"Homepage", "Documentation", "Issues"}
    text = (ROOT / "README.md").read_text()
    links = re.findall(r"(!?)\[[^]]*\]\(([^)]*)\)", page.get_payload())
    assert len(links) == len(re.findall(r"\]\(", text)) > 3
    for picture, link in links:
        place = re.fullmatch(rf"{REPOSITORY}(?:/(raw|blob)/main/([^#]+))?(?:#(.+))?", link)
        assert place, link
        kind, file, heading = place.groups()
        assert kind != ("blob" if picture else "raw") and (file or heading)
        target = ROOT / (file or "README.md")
        assert target.is_file(), link
        if heading:
            headings = re.findall(r"^#+ (.*)$", target.read_text(), re.MULTILINE)
            assert heading in {re.sub(r"[^\w -]", "", it).replace(" ", "-").lower() for it in headings}, link

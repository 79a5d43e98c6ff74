"""The floors of the house: imports go down and never round, and files stay short enough to be read in one sitting."""

import ast
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent.parent
# Lowest first. What stands on one floor may import what is below it and, if that does not go round, its
# neighbours. A room is a file or a folder of the package; "pyllmdecode" itself is what a user imports.
FLOORS = (
    {"tables", "logarithm"},
    {"checks", "detection", "more_checks", "names", "presets", "seeding", "params", "packing"},
    {"output", "inputs", "logprobs", "reference"},
    {"kernels"},
    {"backends"},
    {"eager", "gradient", "ops", "api", "snapshots", "control", "sampler", "scoring"},
    {"search", "parallel", "losses", "repetition", "metrics", "policies"},
    {"pyllmdecode"},
    {"integrations", "cli", "__main__"},
)
# Pytest wants what runs the benchmarks in the folder of their tests.
BENCH_FLOORS = (
    {"cases", "machine", "progress"},
    {"interface"},
    {"cpu", "gpu", "loops", "losses", "study"},
    {"report"},
    {"conftest"},
)
LINES = 320  # "about 300"


def files(package: str) -> dict[str, Path]:
    """Dotted name -> file. The kernels' folder is installed as a part of the package."""
    folders = {package: ROOT / package, "pyllmdecode.kernels": ROOT / "kernels"}
    found = {}
    for name, folder in folders.items():
        if name.split(".")[0] != package:
            continue
        for path in sorted(folder.rglob("*.py")):
            parts = [name, *path.relative_to(folder).with_suffix("").parts]
            if "kernels" in parts[1:] or "__pycache__" in parts:  # the link
                continue
            found[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    return found


def imports(name: str, path: Path, known: dict[str, Path]) -> set[str]:
    """Files of the same package that a file imports, anywhere in it."""
    found = set()
    package = name.split(".") if path.name == "__init__.py" else name.split(".")[:-1]
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            base = package[: len(package) - node.level + 1] if node.level else []
            origin = ".".join([*base, *([node.module] if node.module else [])])
            found |= {f"{origin}.{alias.name}" if f"{origin}.{alias.name}" in known else origin for alias in node.names}
    return found & known.keys() - {name}


def graph(package: str) -> dict[str, set[str]]:
    known = files(package)
    return {name: imports(name, path, known) for name, path in known.items()}


def room(name: str) -> str:
    return "conftest" if name.endswith(".conftest") else (name.split(".") + [name])[1]


@pytest.mark.parametrize("package, floors", [("pyllmdecode", FLOORS), ("bench", BENCH_FLOORS)])
def test_imports_go_down(package, floors):
    floor = {name: number for number, rooms in enumerate(floors) for name in rooms}
    drawn = graph(package)
    assert len(drawn) > 20
    nowhere = {room(name) for name in drawn if room(name) not in floor} - {"bench"}
    assert not nowhere, f"on no floor: {nowhere}"
    up = [
        f"{name} imports {other}"
        for name, others in drawn.items()
        for other in others
        if floor.get(room(other), -1) > floor.get(room(name), -1)
    ]
    assert not up, up


@pytest.mark.parametrize("package", ["pyllmdecode", "bench"])
def test_imports_do_not_go_round(package):
    try:
        TopologicalSorter(graph(package)).prepare()
    except CycleError as error:
        pytest.fail(f"imports go round: {' <- '.join(error.args[1])}")


def test_what_is_drawn_is_what_is_there():
    """The drawing knows of imports of every form: of a name, of a module, inside a function, of the package."""
    drawn = graph("pyllmdecode")
    assert "pyllmdecode.tables" in drawn["pyllmdecode.packing"]
    assert "pyllmdecode.backends.triton" in drawn["pyllmdecode.backends.choice"]
    assert "pyllmdecode.kernels.layout" in drawn["pyllmdecode.backends.triton"]
    assert "pyllmdecode" in drawn["pyllmdecode.cli.commands"]


def test_files_are_short():
    kinds = {".py", ".cpp", ".h", ".cu", ".sh", ".md"}
    folders = ("pyllmdecode", "kernels", "csrc", "bench", "tests", "docs")
    written = {path for folder in folders for path in (ROOT / folder).rglob("*") if path.suffix in kinds}
    generated = {ROOT / "bench" / "RESULTS.md"}
    lines = {path: len(path.read_text().splitlines()) for path in written - generated}
    long = {str(path.relative_to(ROOT)): count for path, count in lines.items() if count > LINES}
    assert not long, f"more than {LINES} lines: {long}"

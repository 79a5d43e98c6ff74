"""The CPU benchmark and its report: who is wrong is left out with the reason, Ctrl-C keeps what there is, pictures."""

import json
import os
import signal
import subprocess
import sys
import xml.etree.ElementTree as xml
from pathlib import Path

import pytest

import pyllmdecode as pld

ROOT = Path(__file__).parent.parent
RESULTS = sorted((ROOT / "bench" / "results").glob("*cores*.json"))
pytest.importorskip("matplotlib")
pytest.importorskip("rich")
pytestmark = pytest.mark.skipif(not pld.backends()["cpu"], reason="the native library is not built")
# Without what says that these tests run in parallel: pytest-benchmark would measure nothing.
INHERITED = {name: value for name, value in os.environ.items() if not name.startswith("PYTEST_")}
ENVIRONMENT = INHERITED | {"OMP_NUM_THREADS": "1", "GOMP_SPINCOUNT": "10000", "PYTHONUNBUFFERED": "1"}


def python(code: str) -> str:
    """Runs it with bench/ in the path; -> what it prints."""
    code = f"import sys; sys.path.insert(0, 'bench')\n{code}"
    result = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, env=ENVIRONMENT, capture_output=True, text=True, timeout=300
    )
    assert result.returncode == 0, result.stdout + result.stderr
    return result.stdout


def test_who_is_left_out():
    """One that draws what it should not, one that cannot run, and one that knows less."""
    printed = python(
        "import json\n"
        "from dataclasses import replace\n"
        "import cases, contenders, figures, measure, peers\n"
        "from interface import NotHere\n"
        "class Wrong(peers.Torch):\n"
        "    def scores(self, logits, which): return -super().scores(logits, which)\n"
        "class Absent(peers.Torch):\n"
        "    def __init__(self, case): raise NotHere('not installed')\n"
        "class Less(peers.Torch):\n"
        "    without = ('no_repeat_ngram_size',)\n"
        "    def __init__(self, case): super().__init__(replace(case, params=replace(case.params, "
        "no_repeat_ngram_size=0)))\n"
        "contenders.REGISTRY.update(wrong=Wrong, absent=Absent, less=Less)\n"
        "names = ('step', 'read', 'torch', 'wrong', 'absent', 'less')\n"
        "case = replace(cases.case('topp', vocab=3000, regime='warm'), contenders=names)\n"
        "entries = measure.entries_of({'point': case})\n"
        "measure.interleave(entries, 0.01)\n"
        "print(json.dumps(figures.rows_of(entries)[0]))"
    )
    row = json.loads(printed)
    assert row["times"].keys() == {"step", "read", "torch", "less"}
    assert row["left_out"].keys() == {"wrong", "absent"}
    assert row["left_out"]["wrong"].startswith("wrong: ") and row["left_out"]["absent"] == "not installed"
    assert row["without"] == {"less": ["no_repeat_ngram_size"]}


def test_ctrl_c_keeps_what_was_measured(tmp_path):
    target = tmp_path / "results.json"
    command = [
        sys.executable,
        "-m",
        "pytest",
        "bench",
        "--benchmark-only",
        "-k",
        "test_trace and greedy or test_history",
    ]
    command += ["-p", "no:cacheprovider", "--bench-results", str(target)]
    # A shell's background jobs ignore the signal, and so would what they start.
    heeds = {"preexec_fn": lambda: signal.signal(signal.SIGINT, signal.SIG_DFL)}
    with subprocess.Popen(command, cwd=ROOT, env=ENVIRONMENT, stdout=subprocess.PIPE, text=True, **heeds) as process:
        while not process.stdout.readline().startswith("Real logits"):
            assert process.poll() is None
        process.send_signal(signal.SIGINT)
        process.communicate(timeout=120)
    written = json.loads(target.read_text())
    assert written["results"] and "interrupted" in written["machine"]["stopped"]
    assert "**interrupted" in (tmp_path / "report.md").read_text()


@pytest.mark.skipif(not RESULTS, reason="no results")
def test_pictures(tmp_path):
    """Small, well-formed, and the same each time."""
    folders, results = [str(tmp_path / "a"), str(tmp_path / "b")], str(RESULTS[0])
    python(
        "import json, pathlib, pictures\n"
        f"for folder in {folders!r}: pictures.draw(json.load(open({results!r})), pathlib.Path(folder))"
    )
    drawn = sorted((tmp_path / "a").glob("*.svg"))
    assert [path.name for path in drawn] == ["batch.svg", "history.svg", "vocabulary.svg"]
    for path in drawn:
        assert path.read_bytes() == (tmp_path / "b" / path.name).read_bytes()
        assert path.stat().st_size < 60_000
        xml.parse(path)


def test_report_says_who_was_not_tried():
    text = python("import report; print(report.left_out([{'times': {'step': {}, 'torch': {}}, 'point': 'x'}]))")
    assert "- llama.cpp: not tried" in text and "- torch:" not in text

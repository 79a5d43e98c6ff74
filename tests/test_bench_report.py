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


def made_up() -> dict:
    """The results in the tree with what later runs have beside them."""
    written = json.loads(RESULTS[0].read_text())
    one = {"median": 2.0, "p5": 1.9, "p95": 2.2, "n": 9}
    point = {"point": "topp B=1 threads=1", "params": "topp", "batch": 1, "threads": 1, "vocab": 49152, "prompt": 64}
    both = {"step": one, "transformers": one | {"median": 30.0}}
    point |= {"model": one | {"median": 40000.0}, "times": both, "tokens_per_second": both, "shares": both}
    point |= {"left_out": {"torch": "wrong: another token"}}
    size = {"name": "cpu", "how": "measured", "bytes": {"512": 6000, "131072": 1200000}}
    written["decode"] = {"model": "Made-up", "rows": [point], "left_out": {}}
    written["state"] = {"vocab": 128256, "room": 131073, "rows": [size], "left_out": {}}
    return written


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
    folders, results = [str(tmp_path / "a"), str(tmp_path / "b")], str(tmp_path / "results.json")
    (tmp_path / "results.json").write_text(json.dumps(made_up()))
    python(
        "import json, pathlib, pictures\n"
        f"for folder in {folders!r}: pictures.draw(json.load(open({results!r})), pathlib.Path(folder))"
    )
    drawn = sorted((tmp_path / "a").glob("*.svg"))
    assert [path.name for path in drawn] == ["batch.svg", "history.svg", "share.svg", "vocabulary.svg"]
    for path in drawn:
        assert path.read_bytes() == (tmp_path / "b" / path.name).read_bytes()
        assert path.stat().st_size < 80_000
        xml.parse(path)


def test_everybody_has_a_look():
    python(
        "import contenders, pictures, tables\n"
        "assert pictures.LOOKS.keys() == contenders.REGISTRY.keys() - {'read', 'kernel'}\n"
        "assert set(tables.PEERS) == contenders.REGISTRY.keys() - {'step', 'read', 'kernel', 'sample'}"
    )


def test_large_batches_are_not_for_everybody():
    """Whoever takes seconds for one is left out of it, with the reason."""
    text = python(
        "import cases, contenders\n"
        "case = cases.case('topp', batch=512)\n"
        "for name in ('step', 'torch'):\n"
        "    try: print(name, type(contenders.prepare(name, case)).__name__)\n"
        "    except contenders.NotHere as why: print(name, why)"
    )
    assert text.splitlines() == ["step Step", "torch " + text.splitlines()[1].removeprefix("torch ")]
    assert "smaller batches only" in text


def test_hard_rows():
    """Every kind is what its name says, and all draw from it what the reference does."""
    text = python(
        "import json, torch\n"
        "from dataclasses import replace\n"
        "import cases, figures, measure\n"
        "names = ('step', 'transformers', 'torch', 'torch-topk')\n"
        "for one in (one for one in cases.hard_cases() if one.name.startswith('topk')):\n"
        "    one = replace(one, vocab=3000, regime='warm', contenders=names)\n"
        "    (entry, *others) = measure.entries_of({one.name: one})\n"
        "    logits, finite = entry.pool.data[:3000], entry.pool.data[:3000].isfinite()\n"
        "    print(json.dumps([one.source, len(logits.unique()), finite.sum().item(), logits[finite].std().item(),"
        " [entry.name] + [other.name for other in others], entry.left_out]))"
    )
    found = {kind: rest for kind, *rest in map(json.loads, text.splitlines())}
    assert found.keys() == {"peaked", "broad", "flat", "ties", "mostly -inf"}
    for kind, (distinct, finite, spread, contenders, left_out) in found.items():
        assert {"step", "transformers", "torch"} <= set(contenders), kind
        # Where it drops ties with the k-th, its nucleus is another, and that is seen.
        assert not left_out or (kind == "ties" and left_out["torch-topk"].startswith("wrong: ")), kind
        assert (distinct < 30) == (kind == "ties") or kind == "mostly -inf"
        assert (finite < 100) == (kind == "mostly -inf")
        assert (spread > 8) == (kind == "peaked") and (spread < 0.01) == (kind == "flat")


def test_memory_of_a_request():
    """What is measured lies near what is written, where pages are small."""
    made = json.loads(python("import json, state; print(json.dumps(state.run(lambda share: None)))"))
    sizes = {(row["name"], row["how"].split(":")[0].split(",")[0]): row["bytes"] for row in made["rows"]}
    small = next(row["bytes"] for row in made["rows"] if "HUGEPAGE" in row["how"])
    written = sizes["cpu", "computed"]
    for length in ("32768", "131072"):
        assert 0.8 < small[length] / written[length] < 1.5
    assert sizes["vLLM's GPU worker", "computed"]["512"] == 4 * 512 + 4 * 128256 + 128256 // 8
    assert sizes["transformers", "computed"]["4096"] == 8 * 4096
    assert sizes["triton, cuda", "computed"]["131072"] < 20 * 131072


def test_decoding_without_the_model(tmp_path):
    text = python(
        "import json, decode, parts_report, pyllmdecode.text\n"
        "def absent(): raise FileNotFoundError('model: the demo model is not installed')\n"
        "pyllmdecode.text.load_quietly = absent\n"
        "made = decode.run(lambda share: None)\n"
        "print(parts_report.decode(made), parts_report.lines('decode', made), parts_report.summary({'decode': made}))"
    )
    assert "- SmolLM2: left out: model: the demo model is not installed" in text


def test_decoding_with_a_model():
    """A model of nothing but its logits: shares, tokens per second, and everybody checked."""
    text = python(
        "import json, torch, decode\n"
        "from types import SimpleNamespace\n"
        "decode.STEPS, decode.WARM_UP = 3, 1\n"
        "generator = torch.Generator().manual_seed(0)\n"
        "def model(ids, use_cache=True, past_key_values=None):\n"
        "    logits = 3 * torch.randn(*ids.shape, 49152, generator=generator)\n"
        "    return SimpleNamespace(logits=logits, past_key_values=None)\n"
        "print(json.dumps(decode.one(model, 'topk-topp', 2, 1, lambda share: None)))"
    )
    row = json.loads(text)
    assert row["times"].keys() == {"step", "transformers", "torch", "torch-topk"} and not row["left_out"]
    for name, share in row["shares"].items():
        rate = row["tokens_per_second"][name]["median"]
        assert 0 < share["median"] < 100 and 0 < rate < 2e6 / row["model"]["p5"]


@pytest.mark.skipif(not RESULTS, reason="no results")
def test_report_from_results_alone(tmp_path):
    """Old results say what was not measured; new ones have it, with its picture."""
    written = made_up()
    (tmp_path / "new.json").write_text(json.dumps(written))
    (tmp_path / "old.json").write_text(json.dumps({key: written[key] for key in ("machine", "results")}))
    old, new = (
        python(
            f"import json, pathlib, report\nresults = json.load(open({str(file)!r}))\n"
            f"print(report.write(results, pathlib.Path({str(tmp_path)!r})).read_text())"
        )
        for file in (tmp_path / "old.json", tmp_path / "new.json")
    )
    for text in (old, new):
        assert "### A decode step with SmolLM2" in text and "### Memory of a request" in text
    assert old.count("not measured yet.") == 2 and "not measured yet" not in new
    assert "| topp B=1 threads=1 | 40.0 " in new and "- torch: left out: wrong: another token" in new
    assert "](pictures/share.svg)" in new and (tmp_path / "pictures" / "share.svg").exists()
    assert "| cpu | measured | 6000 | 1200000 | 9.1 |" in new


@pytest.mark.skipif(not RESULTS, reason="no results")
def test_the_rows_we_lose_are_shown(tmp_path):
    written = made_up()
    group = next(one for one in written["results"] if one["group"] == "Sizes")
    group["rows"][0]["times"]["torch"]["median"] = 0.5
    (tmp_path / "lost.json").write_text(json.dumps(written))
    text = python(
        f"import json, top_report\nprint(top_report.block(json.load(open({str(tmp_path / 'lost.json')!r})), None))"
    )
    assert f"**lost to torch: Sizes, {group['rows'][0]['point']}**" in text and "No other was faster" not in text
    assert "Decoding with SmolLM2" in text and "missed: " in text


def test_report_says_who_was_not_tried():
    text = python("import report; print(report.left_out([{'times': {'step': {}, 'torch': {}}, 'point': 'x'}]))")
    assert "- llama.cpp: not tried" in text and "- torch:" not in text

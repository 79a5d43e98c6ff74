"""The CPU benchmark and its report: who is wrong is left out with the reason, Ctrl-C keeps what there is, tables."""

import dataclasses
import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import made_up_cpu
import pytest
import torch

import pyllmdecode as pld

ROOT = Path(__file__).parent.parent.parent
pytest.importorskip("matplotlib")
pytest.importorskip("rich")
pytestmark = pytest.mark.skipif(not pld.backends()["cpu"], reason="the native library is not built")
# Without what says that these tests run in parallel: pytest-benchmark would measure nothing.
INHERITED = {name: value for name, value in os.environ.items() if not name.startswith("PYTEST_")}
ENVIRONMENT = INHERITED | {"OMP_NUM_THREADS": "1", "GOMP_SPINCOUNT": "10000", "PYTHONUNBUFFERED": "1"}


def test_who_is_left_out(monkeypatch, one_thread):
    """One that draws what it should not, one that cannot run, and one that knows less."""
    from bench import cases
    from bench.cpu import contenders, figures, measure, peers
    from bench.interface import NotHere

    class Wrong(peers.Torch):
        def scores(self, logits, which):
            return -super().scores(logits, which)

    class Absent(peers.Torch):
        def __init__(self, case):
            raise NotHere("not installed")

    class Less(peers.Torch):
        without = ("no_repeat_ngram_size",)

        def __init__(self, case):
            super().__init__(dataclasses.replace(case, params=dataclasses.replace(case.params, no_repeat_ngram_size=0)))

    for name, kind in {"wrong": Wrong, "absent": Absent, "less": Less}.items():
        monkeypatch.setitem(contenders.REGISTRY, name, kind)
    names = ("step", "read", "torch", "wrong", "absent", "less")
    case = dataclasses.replace(cases.case("topp", vocab=3000, regime="warm"), contenders=names)
    entries = measure.entries_of({"point": case})
    measure.interleave(entries, 0.01)
    row = figures.rows_of(entries)[0]
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
        "bench/cpu",
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


def test_large_batches_are_not_for_everybody():
    """Whoever takes seconds for one is left out of it, with the reason."""
    from bench import cases
    from bench.cpu import contenders

    case = cases.case("topp", batch=512)
    assert type(contenders.prepare("step", case)).__name__ == "Step"
    with pytest.raises(contenders.NotHere, match="smaller batches only"):
        contenders.prepare("torch", case)


def test_hard_rows(one_thread):
    """Every kind is what its name says, and all draw from it what the reference does."""
    from bench import cases
    from bench.cpu import measure

    names = ("step", "transformers", "torch", "torch-topk")
    hard = [one for one in cases.hard_cases() if one.name.startswith("topk")]
    assert {one.source for one in hard} == {"peaked", "broad", "flat", "ties", "mostly -inf"}
    for one in hard:
        one, kind = dataclasses.replace(one, vocab=3000, regime="warm", contenders=names), one.source
        entry, *others = measure.entries_of({one.name: one})
        logits = entry.pool.data[:3000]
        finite = logits[logits.isfinite()]
        assert {"step", "transformers", "torch"} <= {entry.name, *(other.name for other in others)}, kind
        # Where it drops ties with the k-th, its nucleus is another, and that is seen.
        left_out = entry.left_out
        assert not left_out or (kind == "ties" and left_out["torch-topk"].startswith("wrong: ")), kind
        assert (len(logits.unique()) < 30) == (kind == "ties") or kind == "mostly -inf"
        assert (len(finite) < 100) == (kind == "mostly -inf")
        assert (finite.std() > 8) == (kind == "peaked") and (finite.std() < 0.01) == (kind == "flat")


def test_memory_of_a_request():
    """What is measured lies near what is written, where pages are small."""
    from bench.cpu import state

    made = state.run(lambda share: None)
    sizes = {(row["name"], row["how"].split(":")[0].split(",")[0]): row["bytes"] for row in made["rows"]}
    small = next(row["bytes"] for row in made["rows"] if "HUGEPAGE" in row["how"])
    written = sizes["cpu", "computed"]
    for length in ("32768", "131072"):
        assert 0.8 < small[length] / written[length] < 1.5
    assert sizes["vLLM's GPU worker", "computed"]["512"] == 4 * 512 + 4 * 128256 + 128256 // 8
    assert sizes["transformers", "computed"]["4096"] == 8 * 4096
    assert sizes["triton, cuda", "computed"]["131072"] < 20 * 131072


def test_decoding_without_the_model(monkeypatch):
    from bench.cpu import decode
    from bench.report import parts

    def absent():
        raise FileNotFoundError("model: the demo model is not installed")

    monkeypatch.setattr("pyllmdecode.cli.models.load_quietly", absent)
    made = decode.run(lambda share: None)
    assert "- SmolLM2: left out: model: the demo model is not installed" in parts.decode(made)
    assert parts.lines("decode", made) and parts.gain({"decode": made}) == ""


def test_decoding_with_a_model(monkeypatch, one_thread):
    """A model of nothing but its logits: shares, tokens per second, and everybody checked."""
    from bench.cpu import decode

    generator = torch.Generator().manual_seed(0)

    def model(ids, use_cache=True, past_key_values=None):
        logits = 3 * torch.randn(*ids.shape, 49152, generator=generator)
        return SimpleNamespace(logits=logits, past_key_values=None)

    monkeypatch.setattr(decode, "STEPS", 3)
    monkeypatch.setattr(decode, "WARM_UP", 1)
    row = decode.one(model, "topk-topp", 2, 1, lambda share: None)
    assert row["times"].keys() == {"step", "transformers", "torch", "torch-topk"} and not row["left_out"]
    for name, share in row["shares"].items():
        rate = row["tokens_per_second"][name]["median"]
        assert 0 < share["median"] < 100 and 0 < rate < 2e6 / row["model"]["p5"]


@pytest.mark.skipif(not made_up_cpu.WRITTEN, reason="no results")
def test_report_from_results_alone(tmp_path):
    """Old results say what was not measured; new ones have it, with its picture."""
    from bench.report import files

    written = made_up_cpu.results()
    old, new = (
        files.write(results, tmp_path).read_text()
        for results in ({key: written[key] for key in ("machine", "results")}, written)
    )
    for text in (old, new):
        assert "### A decode step with SmolLM2" in text and "### Memory of a request" in text
    assert old.count("not measured yet.") == 2 and "not measured yet" not in new
    assert "| topp B=1 threads=1 | 40.0 " in new and "- torch: left out: wrong: another token" in new
    assert "](pictures/share.svg)" in new and (tmp_path / "pictures" / "share.svg").exists()
    assert "| cpu | measured | 6000 | 1200000 | 9.1 |" in new


@pytest.mark.skipif(not made_up_cpu.WRITTEN, reason="no results")
def test_the_rows_we_lose_are_shown():
    from bench.report import top

    written = made_up_cpu.results()
    group = next(one for one in written["results"] if one["group"] == "Sizes")
    group["rows"][0]["times"]["torch"]["median"] = 0.5
    text = top.block(written, None)
    assert f"**lost to torch: Sizes, {group['rows'][0]['point']}**" in text and "No other was faster" not in text
    assert "missed: " in text


@pytest.mark.skipif(not made_up_cpu.WRITTEN, reason="no results")
def test_the_strongest_stand_in_the_table_at_the_top():
    """The others that come nearest are in it, and what a token costs with the model."""
    from bench.report import top

    written = made_up_cpu.results()
    rows = {(one["group"], row["point"]): row for one in written["results"] for row in one["rows"]}
    row = rows["One row", "topk-topp float32 cold"]
    lines = top.block(written, None).splitlines()
    headings = next(line for line in lines if "µs a step" in line).strip("| ").split(" | ")
    cells = next(line for line in lines if line.startswith("| top-k 50 and top-p 0.95 |")).strip("| ").split(" | ")
    shown = dict(zip(headings, cells, strict=True))
    for heading, name in {"torch with topk": "torch-topk", "llama.cpp": "llama.cpp"}.items():
        expected = row["times"][name]["median"] / row["times"]["step"]["median"]
        assert float(shown[f"{heading} ÷ ours"]) == pytest.approx(expected, rel=0.1)
    assert written["machine"]["cpu"] in "\n".join(lines) and "one thread" in "\n".join(lines)
    # Two tokens a second against thirty.
    assert "| top-p 0.95, 1 row | 2.0 | 30.0 |  | -93 % |" in lines and any("Made-up" in line for line in lines)


def test_report_says_who_was_not_tried():
    from bench.report import cpu

    text = cpu.left_out([{"times": {"step": {}, "torch": {}}, "point": "x"}])
    assert "- llama.cpp: not tried" in text and "- torch:" not in text

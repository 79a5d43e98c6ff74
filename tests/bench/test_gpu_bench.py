"""The GPU benchmark, its report and the small check, tried on the CPU: what they write, and that errors are found."""

import json
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import made_up_gpu
import pytest

import pyllmdecode as pld

ROOT = Path(__file__).parent.parent.parent
pytestmark = pytest.mark.skipif(not pld.backends()["cpu"], reason="the native library is not built")


def run(*command, status=0) -> str:
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    command = [sys.executable, *map(str, command)]
    result = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=300)
    assert result.returncode == status, result.stdout + result.stderr
    return result.stdout


@pytest.fixture(scope="module")
def results(tmp_path_factory) -> Path:
    """What a run on the CPU has written."""
    folder = tmp_path_factory.mktemp("gpu")
    run("-m", "bench.gpu", "--device", "cpu", "--out", folder, "--case-seconds", "0.01")
    (file,) = folder.glob("*.json")
    return file


def test_results(results):
    """Every contender is measured, or left out with a reason."""
    written = json.loads(results.read_text())
    here, rows = written["machine"], written["results"][0]["rows"]
    assert {"gpu", "copy", "commit", "date", "versions"} <= here.keys()
    assert [row["point"].split()[0] for row in rows] == ["topk-topp", "topp", "greedy"]
    for row in rows:
        names = {"cpu", "reference", "read", "torch", "torch-topk", "transformers"}
        assert row["eager"].keys() | row["left_out"].keys() >= names
        assert row["host"].keys() == {"cpu", "reference"}
        assert not any("wrong" in why for why in row["left_out"].values()), row["left_out"]
        for name in row["eager"]:
            assert row["readings"][name]["median"] > 0
            assert name == "cpu" or row["ratios"][f"{name} / cpu"]["mode"] in ("graph", "eager")
    assert rows[0]["left_out"]["transformers in a graph"]  # its n-gram processor works on the host
    assert rows[2]["left_out"]["torch-topk"] == "needs a k"


def test_report(results, tmp_path):
    """The GPU's tables change and nothing else does; without results they say so."""
    page = tmp_path / "RESULTS.md"
    shutil.copy(ROOT / "bench" / "RESULTS.md", page)
    before = page.read_text()
    run("-m", "bench.report", results, "--page", page)
    with_results = page.read_text()
    begin, end = "<!-- GPU results: begin, written by make report -->", "<!-- GPU results: end -->"
    assert with_results.split(begin)[0] == before.split(begin)[0]
    assert with_results.split(end)[1] == before.split(end)[1]
    part = with_results.split(begin)[1].split(end)[0]
    assert "cpu, readings" in part and "transformers ÷ cpu" in part and "none (tried on the CPU)" in part


def test_report_without_results():
    from bench.report import gpu

    text = gpu.sections([])
    assert text.count("not measured yet") == 8 and "at least 20" in text and "at most 3" in text
    assert "cuda: FlashInfer's fastest" in text and "at most 1.6" in text


def test_goals_of_each_backend():
    """A line for each goal and case, with all its batches, and what was missed in bold."""
    from bench.report import gpu

    rows = made_up_gpu.results()["results"][0]["rows"]
    asked = gpu.goal_table(rows)
    assert len(asked.splitlines()) == 2 + 6 + 16
    assert "| cuda: µs on the GPU | topp bfloat16 | at most 10 | B=1: 4.08 (3.67–4.89) | yes |" in asked
    assert "| at least 5 | B=1: 5.05, B=8: 5.33, B=32: 5.95, B=64" in asked and "**" not in asked

    goal = next(g for row in rows for g in row["goals"] if g["text"].startswith("FlashInfer's fastest"))
    goal["met"] = False
    missed = gpu.goal_table(rows)
    assert goal["reached"]["peer"] == "flashinfer-cake"  # faster than "flashinfer" at 256 rows
    assert ", B=256: **5.90**, B=512" in missed and missed.count("**no**") == 1

    goal.update(reached=None, why_not="does not import")
    unknown = gpu.goal_table(rows)
    assert "B=256: not measured: does not import, B=512" in unknown and "**" not in unknown


def test_report_and_pictures_of_a_gpu(tmp_path):
    """From files alone: goals, bytes, pictures with everybody in them."""
    pytest.importorskip("matplotlib")
    from bench.report import gpu_pictures

    files = tmp_path / "made-up-gpu.json", tmp_path / "made-up-gpu-bytes.json"
    for file, one in zip(files, (made_up_gpu.results(), made_up_gpu.counted())):
        file.write_text(json.dumps(one))
    page = tmp_path / "RESULTS.md"
    shutil.copy(ROOT / "bench" / "RESULTS.md", page)
    run("-m", "bench.report", *files, "--page", page)
    text = page.read_text().split("<!-- GPU results: begin")[1]
    assert "](pictures/gpu-batch.svg)" in text and "](pictures/gpu-vocabulary.svg)" in text
    assert "Nsight Compute; B = 256" in text and "cuda topp 1.04" in text
    colours = [gpu_pictures.LOOKS[name][1] for name in made_up_gpu.SPEEDS if name != "read"]
    for name in ("gpu-batch.svg", "gpu-vocabulary.svg"):
        drawn = (tmp_path / "pictures" / name).read_text()
        assert all(colour in drawn for colour in colours), name


def test_everybody_on_a_gpu_has_a_look():
    pytest.importorskip("matplotlib")
    from bench.gpu import contenders
    from bench.report import gpu_pictures

    assert gpu_pictures.LOOKS.keys() == contenders.registry("cuda").keys() - {"read"}


def test_the_rows_we_lose_are_shown():
    from bench.report import gpu

    text = gpu.top(made_up_gpu.results())
    assert text.count("**lost to torch-topk** temperature B=8") == 2 and "Made-up GPU" in text


def test_a_run_without_time(tmp_path):
    run("-m", "bench.gpu", "--device", "cpu", "--out", tmp_path, "--seconds", "0", status=1)
    (file,) = tmp_path.glob("*.json")
    written = json.loads(file.read_text())
    assert written["results"][0]["rows"] == [] and "out of time" in written["machine"]["stopped"]


def test_an_interrupted_run_keeps_what_it_has(tmp_path):
    command = [sys.executable, "-m", "bench.gpu", "--device", "cpu", "--case-seconds", "1.5", "--out", str(tmp_path)]
    command += ["--contenders", "cpu", "read"]
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True) as process:
        while not process.stdout.readline().startswith("1/"):
            assert process.poll() is None
        process.send_signal(signal.SIGTERM)  # as `timeout` does; Ctrl-C has the same handler
        process.communicate(timeout=60)
    (file,) = tmp_path.glob("*.json")
    written = json.loads(file.read_text())
    assert written["machine"]["stopped"] == "interrupted" and len(written["results"][0]["rows"]) in (1, 2)


def test_a_wrong_contender_is_left_out(tmp_path):
    """Whoever draws what it should not is not timed."""
    code = (
        "import sys\n"
        f"sys.argv[1:] = ['--device', 'cpu', '--case-seconds', '0', '-k', 'topp', '--out', {str(tmp_path)!r}]\n"
        "from bench.gpu import __main__ as main, contenders\n"
        "contenders.Torch.call = lambda self, logits, which: logits.argmin(-1)\n"
        "contenders.Ours.call = lambda self, logits, which: self.sampler.step(logits).token_ids ^ 1\n"
        "sys.exit(main.main())"
    )
    text = run("-c", code, status=1)  # as a fault of a backend of ours is one of the run
    (file,) = tmp_path.glob("*.json")
    left_out = json.loads(file.read_text())["results"][0]["rows"][0]["left_out"]
    assert left_out["torch"].startswith("wrong: ") and left_out["cpu"].startswith("wrong: ")
    assert "FAULT cpu: wrong: " in text


def test_small_check():
    assert (
        "0 wrong"
        in run("tests/backends/gpu_small.py", "cpu", "--device", "cpu", "--vocabs", "1", "130").splitlines()[-1]
    )


def test_bytes_are_read_off_the_profiler(tmp_path):
    """Nsight Compute's table: a line of names, one of units, one for each kernel."""
    ncu = tmp_path / "ncu"
    ncu.write_text("""#!/bin/sh
echo '==PROF== Connected to process 1'
echo '"ID","Kernel Name","dram__bytes_read.sum"'
echo '"","","byte"'
echo '"0","step_kernel","66,000,000"'
echo '"1","step_kernel","66000000.5"'
echo '"2","step_kernel","65999999.5"'
""")
    ncu.chmod(0o755)
    from bench.gpu import bytes as profiler

    assert profiler.counted(str(ncu), "cuda", "topp") == 66e6
    ncu.write_text("#!/bin/sh\necho 'ERR_NVGPUCTRPERM' >&2\n")
    with pytest.raises(RuntimeError, match="ERR_NVGPUCTRPERM"):
        profiler.counted(str(ncu), "cuda", "topp")


def test_page(tmp_path):
    """What was measured stands beside what was computed, with what it means; what failed is named."""
    from bench.gpu import page

    logs = tmp_path / "logs"
    logs.mkdir()
    text = page.page(tmp_path, logs)
    assert text.count("not measured") == len(page.PROBE) + len(page.STEPS) and "Nothing differs" in text
    (logs / "probe.log").write_text(
        "gpu X\n66_MB_by_bulk_copies_2_blocks_a_multiprocessor 15.5 us\nother 1e+03 cycles\n"
    )
    (logs / "soak-cuda.log").write_text("DIFFERS V=7: kept, row 1: 2 != 3\n")
    (tmp_path / "summary.txt").write_text("pass  build, 3 s\nFAIL  soak-cuda, status 1\n")
    row = {"params": "topk-topp", "batch": 256, "eager": {"cuda": {"median": 90.0}}, "times": {"cuda": {"median": 3.0}}}
    (tmp_path / "goals.json").write_text(json.dumps({"machine": {}, "results": [{"rows": [row]}]}))
    (tmp_path / "stages.json").write_text(
        json.dumps([{"case": "a", "cycles": {"loaded": 1200}, "ns of a launch": 9e3}])
    )
    text = page.page(tmp_path, logs)
    assert "| reading 66 MB by bulk copies | 14 to 17 us | 15.5 | as computed |" in text
    (line,) = [line for line in text.splitlines() if line.startswith("| cuda, top-k and top-p, B = 256")]
    assert "| 3 |" in line and "the goal is met" in line and "better than computed" in line
    assert "- a: loaded 1200; the launch 9.0 us" in text
    assert "- FAIL  soak-cuda" in text and "soak-cuda: DIFFERS V=7: kept" in text


@pytest.mark.thorough
def test_all_of_make_gpu(tmp_path):
    """Every part, as far as it can run where there is no GPU: right, and no more files than are brought home."""
    environment = os.environ | {"GPU_DRY": "1", "OUT": str(tmp_path), "PYTHON": sys.executable}
    done = subprocess.run(["bash", "tests/gpu.sh"], cwd=ROOT, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout[-3000:]
    lines = (tmp_path / "summary.txt").read_text().splitlines()
    passed = {line.split()[1].rstrip(",:") for line in lines if line.startswith("pass ")}
    parts = {"small-cuda", "small-triton", "goals", "stages", "matrix", "tests"}
    assert passed >= parts | {f"{what}-{backend}" for what in ("edges", "soak") for backend in ("cuda", "triton")}
    assert {"summary.txt", "page.md", "logs.tar.gz", "stages.json"} <= {path.name for path in tmp_path.iterdir()}
    assert len(list(tmp_path.iterdir())) <= 8

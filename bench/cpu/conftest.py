"""Collects what the benchmarks measure, says it while they run, and leaves it as a file and a report."""

import json
import os
from pathlib import Path
from time import perf_counter

import pytest
import torch

from .. import machine
from ..progress import SessionBar
from ..report import files, parts
from .figures import rows_of
from .measure import SECONDS, Entry, entries_of, interleave

RESULTS = pytest.StashKey[list]()
PARTS = pytest.StashKey[dict]()  # {key of the results: what is not a table of times}
BEGIN = pytest.StashKey[dict]()
BAR = pytest.StashKey[SessionBar]()
ROOT = Path(__file__).parent.parent.parent
FOLDER, LATEST = ROOT / "bench" / "results", ROOT / "build" / "bench"


def pytest_addoption(parser):
    parser.addoption(
        "--bench-results",
        nargs="?",
        const="1",
        default=os.environ.get("PYLLMDECODE_BENCH_RESULTS", ""),
        metavar="FILE",
        help="write the results as JSON, to bench/results/<machine>.json where no file is named (default: "
        "$PYLLMDECODE_BENCH_RESULTS, 1 for no name; where that is not set, build/bench/results.json)",
    )


def pytest_configure(config):
    config.stash[RESULTS], config.stash[PARTS] = [], {}
    config.stash[BEGIN] = machine.describe()
    config.stash[BAR] = SessionBar()
    torch.set_num_threads(1)


def pytest_report_header():
    load = machine.load()
    busy = ": other processes slow long calls more than short ones, so ratios come out too large" if load > 0.5 else ""
    return f"load average {load}{busy}"


class Replay:
    """A clock that shows times already taken.

    pytest-benchmark runs one function after the other and would not interleave; with this as its timer, it shows the
    interleaved times of the first contender instead of those of a second measurement.
    """

    def __init__(self):
        self.now = 0.0
        self.pending = iter(())

    def __call__(self) -> float:
        return self.now

    def advance(self) -> None:
        self.now += next(self.pending) / 1e9


REPLAY = Replay()


def pytest_collection_modifyitems(items):
    for item in items:
        item.add_marker(pytest.mark.benchmark(timer=REPLAY))


def pytest_collection_finish(session):
    session.config.stash[BAR].total = len(session.items)


@pytest.fixture
def measure(request, benchmark):
    """measure(group, cases, ...): interleaves the contenders of {point: case}; -> the entries."""
    config = request.config

    def run(group: str, cases: dict, goals=None, pools=None, seconds: float = SECONDS) -> list[Entry]:
        began = perf_counter()
        with capturing_off(config), config.stash[BAR].shown(f"{group}, {next(iter(cases))}") as tick:
            entries = entries_of(cases, pools)
            interleave(entries, seconds, tick)
        rows = rows_of(entries, goals)
        seconds = round(perf_counter() - began, 1)
        config.stash[RESULTS].append({"group": group, "rows": rows, "seconds": seconds})
        say(config, *(_line(group, row) for row in rows), config.stash[BAR].text(seconds))
        show(benchmark, group, [ns for calls in entries[0].samples for ns in calls], rows)
        return entries

    return run


@pytest.fixture
def keep(request, benchmark):
    """keep(key, make): results[key] = make(tick), for what is measured in a way of its own."""
    config = request.config

    def run(key: str, make) -> dict:
        began = perf_counter()
        with capturing_off(config), config.stash[BAR].shown(key) as tick:
            made = make(tick)
        seconds = round(perf_counter() - began, 1)
        config.stash[PARTS][key] = made | {"seconds": seconds}
        say(config, *parts.lines(key, made), config.stash[BAR].text(seconds))
        show(benchmark, key, [1e9 * seconds], made["rows"])
        return made

    return run


def show(benchmark, group: str, times: list[float], rows: list[dict]) -> None:
    """Shows pytest-benchmark times in ns that were taken here."""
    REPLAY.pending = iter(times)
    benchmark.group = group
    benchmark.pedantic(REPLAY.advance, rounds=len(times))
    benchmark.extra_info["rows"] = rows


@pytest.fixture
def add_goal(request):
    """Adds a goal over several points to the last measurement, and says it."""

    def add(result: dict) -> None:
        request.config.stash[RESULTS][-1]["rows"][-1]["goals"].append(result)
        say(request.config, _goal(result))

    return add


def pytest_sessionfinish(session, exitstatus):
    """Also after Ctrl-C: the cases that were complete by then are kept."""
    stash, target = session.config.stash, session.config.getoption("--bench-results")
    measured, others = stash[RESULTS], stash[PARTS]
    if not (measured or others):
        return
    path = (
        LATEST / "results.json" if not target else FOLDER / f"{machine.name()}.json" if target == "1" else Path(target)
    )
    path.parent.mkdir(parents=True, exist_ok=True)
    here = {**stash[BEGIN], "load_at_the_end": machine.load(), "seconds": round(stash[BAR].elapsed())}
    if exitstatus == pytest.ExitCode.INTERRUPTED:
        here["stopped"] = "interrupted, so some cases are missing"
    results = {"machine": here, "results": measured, **others}
    path.write_text(json.dumps(results, indent=1, ensure_ascii=False) + "\n")
    folder = LATEST if target in ("", "1") else path.parent
    folder.mkdir(parents=True, exist_ok=True)
    written = files.write(results, folder)
    say(
        session.config,
        f"{stash[BAR].done} cases in {here['seconds']} s",
        f"Results are in {path}",
        f"A report of them is {written}",
    )


def capturing_off(config):
    return config.pluginmanager.getplugin("capturemanager").global_and_fixture_disabled()


def say(config, *lines: str) -> None:
    """On the terminal at once, past pytest's capturing."""
    with capturing_off(config):
        for line in ("", *lines):
            config.pluginmanager.getplugin("terminalreporter").write_line(line)


def _line(group: str, row: dict) -> str:
    times = ", ".join(f"{name} {time['median']:.1f}" for name, time in row["times"].items())
    ratios = [f"{name} {row['ratios'][name]['median']:.2f}" for name in ("step / read",) if name in row["ratios"]]
    peers = ("transformers / step", "torch / step", "torch-topk / step")
    ratios += [f"{name} {row['ratios'][name]['median']:.0f}" for name in peers if name in row["ratios"]]
    goals = "".join("\n" + _goal(result) for result in row["goals"])
    left_out = "".join(f"\n  left out: {name}: {why}" for name, why in row["left_out"].items())
    return f"{group}, {row['point']}: µs {times}; {', '.join(ratios)}{goals}{left_out}"


def _goal(result: dict) -> str:
    sense = "at least" if result["at_least"] else "at most"
    bound = f"{sense} {result['bound']:g} {result['unit']}".rstrip()
    return f"  {'met' if result['met'] else 'NOT MET'}: {result['text']} {result['reached']['median']:.2f}, {bound}"

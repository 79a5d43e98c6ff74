"""Is the change slower than its base? Times both in one run, and the base against itself to know the noise.

    make bench-check [BASE=commit] [CHANGE=commit]

A side is a commit, which is unpacked and built under build/bench-check, or a folder with a built tree. Without BASE it
is where this branch left main; on main itself the last commit, or the one before where nothing is uncommitted. Without
CHANGE it is the working tree. The exit status is 1 where a case has become slower, 2 where not all was compared.
"""

import argparse
import json
import os
import random
import subprocess
import sys
from pathlib import Path

from .. import progress
from .judge import Verdict, judge, median

ROOT = Path(__file__).resolve().parent.parent.parent
WORKER = Path(__file__).resolve().parent / "check_worker.py"
# Name -> parameters, dtype, rows. One row is what a step costs; the others find what only rows or types show.
CASES = {
    "topk-topp": ("topk-topp", "float32", 1),
    "topp": ("topp", "float32", 1),
    "temperature": ("temperature", "float32", 1),
    "greedy": ("greedy", "float32", 1),
    "topp bfloat16": ("topp", "bfloat16", 1),
    "topk-topp B=8": ("topk-topp", "float32", 8),
}
CALLS = 16  # of a turn, of which the median counts
SIDES = ("base", "again", "change")  # "again" is the base once more, in a process of its own


class Worker:
    """A process that imports the package from `folder`."""

    def __init__(self, folder: Path):
        environment = os.environ | {"OMP_NUM_THREADS": "1"}
        command = [sys.executable, str(WORKER), str(folder)]
        pipe = subprocess.PIPE
        # In a session of its own, as Ctrl-C is for this process to handle; a worker ends when its input does.
        self.process = subprocess.Popen(
            command, stdin=pipe, stdout=pipe, text=True, env=environment, cwd=folder, start_new_session=True
        )

    def answer(self) -> dict:
        line = self.process.stdout.readline()
        if not line:
            raise SystemExit(f"the worker for {self.process.args[-1]} ended; what it said is above")
        return json.loads(line)

    def turn(self, case: str) -> dict:
        self.process.stdin.write(json.dumps({"case": CASES[case], "calls": CALLS}) + "\n")
        self.process.stdin.flush()
        return self.answer()

    def end(self) -> None:
        self.process.kill()
        self.process.communicate()


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--base", default="", help="commit or folder")
    parser.add_argument("--change", default="", help="commit or folder (default: the working tree)")
    parser.add_argument(
        "--threshold", type=float, default=3, help="slowdowns up to it pass, in %% (default: %(default)s)"
    )
    parser.add_argument(
        "--starts", type=int, default=8, help="how often processes are started anew (default: %(default)s)"
    )
    parser.add_argument("--rounds", type=int, default=12, help="of each start (default: %(default)s)")
    parser.add_argument("--cases", nargs="+", choices=CASES, default=list(CASES), metavar="CASE", help=", ".join(CASES))
    parser.add_argument("--scratch", type=Path, default=ROOT / "build" / "bench-check", help="where commits are built")
    arguments = parser.parse_args()

    base = arguments.base or default_base()
    folders = {"base": tree(base, arguments.scratch), "change": tree(arguments.change or str(ROOT), arguments.scratch)}
    folders["again"] = folders["base"]
    print(f"base    {base}\nchange  {arguments.change or 'the working tree'}", flush=True)
    times, differ, interrupted = measure(folders, arguments.cases, arguments.starts, arguments.rounds)
    measured = [case for case in arguments.cases if len(times[case]["change"]) >= 2]
    if not measured:
        print("Nothing was measured that could be compared")
        return 2
    verdicts = {case: judge(times[case], arguments.threshold / 100) for case in measured}
    print(table(times, verdicts))
    for case in differ:
        print(f"{case}: the change draws other tokens than the base")
    slower = [case for case, verdict in verdicts.items() if verdict.slower]
    print(f"SLOWER: {', '.join(slower)}" if slower else "No case has become slower beyond the noise")
    if interrupted:
        print("Interrupted: this is of what was measured until then")
    return 1 if slower else 2 if interrupted else 0


def measure(folders: dict[str, Path], cases: list[str], starts: int, rounds: int) -> tuple[dict, list[str], bool]:
    """-> {case: {side: [a list per start, of each round's median in ns]}}, cases whose tokens differ, if interrupted.

    In every round the sides take turns, in an order shuffled anew for every case. Processes are started anew because
    where memory happens to lie makes one slower than another for as long as it lives.
    """
    times = {case: {side: [] for side in SIDES} for case in cases}
    differ: dict[str, None] = {}
    order = random.Random(0)
    with progress.over(starts * rounds, "rounds") as advance:
        try:
            for _ in range(starts):
                here = {case: {side: [] for side in SIDES} for case in cases}
                workers = {side: Worker(folders[side]) for side in SIDES}
                try:
                    for worker in workers.values():
                        worker.answer()
                    for number in range(-1, rounds):  # the first one warms up
                        for case in cases:
                            sides = order.sample(SIDES, len(SIDES))
                            answers = {side: workers[side].turn(case) for side in sides}
                            if answers["change"]["tokens"] != answers["base"]["tokens"]:
                                differ[case] = None
                            if number >= 0:
                                for side in SIDES:
                                    here[case][side].append(median(answers[side]["ns"]))
                        if number >= 0:
                            advance()
                finally:
                    for worker in workers.values():
                        worker.end()
                for case in cases:
                    for side in SIDES:
                        times[case][side].append(here[case][side])
        except KeyboardInterrupt:  # the starts that are complete are kept
            return times, list(differ), True
    return times, list(differ), False


def table(times: dict, verdicts: dict[str, Verdict]) -> str:
    lines = [f"{'case':<16}{'base µs':>9}{'change µs':>11}   {'change ÷ base':<23}{'base ÷ base':<23}"]
    for case, verdict in verdicts.items():
        base, change = (median([t for start in times[case][side] for t in start]) / 1e3 for side in ("base", "change"))
        spans = "".join(f"{f'{s.median:.3f} ({s.low:.3f}–{s.high:.3f})':<23}" for s in (verdict.change, verdict.noise))
        lines.append(f"{case:<16}{base:>9.1f}{change:>11.1f}   {spans}{'SLOWER' if verdict.slower else ''}".rstrip())
    return "\n".join(lines)


def tree(side: str, scratch: Path) -> Path:
    """A folder with the built package: the one that is named, or the commit, unpacked and built."""
    if Path(side).is_dir():
        return Path(side).resolve()
    commit = git("rev-parse", "--verify", "--quiet", f"{side}^{{commit}}")
    if not commit:
        raise SystemExit(f"'{side}' is neither a commit nor a folder")
    folder = scratch.resolve() / commit[:12]
    if not (folder / "setup.py").exists():  # an archive rather than a worktree, as that would have to be removed again
        folder.mkdir(parents=True, exist_ok=True)
        archive = subprocess.run(["git", "archive", commit], cwd=ROOT, check=True, capture_output=True).stdout
        subprocess.run(["tar", "x", "-C", str(folder)], input=archive, check=True)
    print(f"Building {side} ({commit[:12]}) in {folder}", flush=True)
    # Nothing is timed that CUDA is needed for.
    environment = os.environ | {"PYLLMDECODE_BUILD_DIR": str(folder / "build" / "native"), "PYLLMDECODE_CUDA": "0"}
    subprocess.run(
        [sys.executable, "setup.py", "-q", "build_ext", "--inplace"], cwd=folder, env=environment, check=True
    )
    return folder


def default_base() -> str:
    head = git("rev-parse", "HEAD")
    for main_branch in ("main", "origin/main"):
        common = git("merge-base", "HEAD", main_branch)
        if common and common != head:
            return common
    return "HEAD" if git("status", "--porcelain", "--untracked-files=no") else "HEAD~1"


def git(*arguments: str) -> str:
    """What it prints; nothing where it fails."""
    result = subprocess.run(["git", "--no-optional-locks", *arguments], cwd=ROOT, capture_output=True, text=True)
    return result.stdout.strip() if result.returncode == 0 else ""


if __name__ == "__main__":
    sys.exit(main())

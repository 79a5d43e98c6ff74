"""The command as a process of its own."""

import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parent.parent.parent


def run(*arguments: str, stdin: str = "", stdout=subprocess.PIPE, **environment: str) -> subprocess.CompletedProcess:
    command = [sys.executable, "-m", "pyllmdecode", *arguments]
    variables = {**os.environ, "OMP_NUM_THREADS": "1", **environment}
    return subprocess.run(
        command, cwd=ROOT, env=variables, input=stdin, stdout=stdout, stderr=subprocess.PIPE, text=True, timeout=300
    )

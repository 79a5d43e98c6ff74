"""The benchmarks are a package of the checkout; of what is installed they are no part."""

import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent.parent
sys.path.append(str(ROOT))


@pytest.fixture
def one_thread(threads):
    """As the benchmarks run."""
    threads(1)

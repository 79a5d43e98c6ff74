"""A vocabulary split over ranks: each has the whole loss, and its part of the gradient."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
import ranks
import torch
import torch.distributed

HERE = Path(__file__).parent


@pytest.mark.thorough
@pytest.mark.skipif(not torch.distributed.is_available(), reason="this torch has no torch.distributed")
def test_ranks(tmp_path):
    command = [sys.executable, str(HERE / "ranks.py")]
    started = [
        subprocess.Popen([*command, str(rank), str(tmp_path / "meet")], stdout=subprocess.PIPE, text=True)
        for rank in range(len(ranks.SIZES))
    ]
    found = [json.loads(process.communicate(timeout=120)[0].splitlines()[-1]) for process in started]
    whole = ranks.run(None, None)
    _, linear, *_ = ranks.cases()
    for rank, mine in enumerate(found):
        span = slice(sum(ranks.SIZES[:rank]), sum(ranks.SIZES[: rank + 1]))
        assert mine.keys() == whole.keys()
        for name in whole:
            expected = [torch.tensor(one, dtype=torch.float64) for one in whole[name]]
            if name in linear:
                expected[2:] = [one[span] for one in expected[2:]]
            else:
                expected[1] = expected[1][..., span]
            made = [torch.tensor(one, dtype=torch.float64) for one in mine[name]]
            assert all(torch.allclose(*pair, rtol=1e-10, atol=1e-12) for pair in zip(made, expected)), (rank, name)
            assert expected[1].any()

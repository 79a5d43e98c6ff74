"""Where the rows of a loss are read: by torch, or by the Triton kernels (in the interpreter, where there is no GPU)."""

import pytest

from pyllmdecode.backends.choice import backends
from pyllmdecode.losses import statistics


@pytest.fixture(params=["torch", "triton"])
def read_by(request, monkeypatch):
    if request.param == "torch":
        monkeypatch.setattr(statistics, "served_by_triton", lambda x: False)
    else:
        if not backends()["triton"]:
            pytest.skip(f"triton: {backends()['triton'].reason}")
        from pyllmdecode.losses import statistics_triton

        monkeypatch.setattr(statistics, "served_by_triton", lambda x: x.dtype != statistics.torch.float64)
        monkeypatch.setattr(statistics_triton, "BLOCK", 64)  # several of them in a row of a test
        monkeypatch.setattr(statistics_triton, "COLUMNS", 4)
    return request.param

"""Float32 values for tests of the mass: many, and at the edges."""

import numpy as np
import torch


def float32_values(start, stop):
    """Every float32 between two negative numbers of one sign, as a tensor."""
    first, last = sorted(np.array([start, stop], np.float32).view(np.int32).tolist())
    return torch.arange(first, last + 1, dtype=torch.int32).view(torch.float32)


def many_exponents():
    generator = torch.Generator().manual_seed(0)
    uniform = -43.0 * torch.rand(2_000_000, generator=generator)
    spread = -(2.0 ** (-160.0 * torch.rand(500_000, generator=generator)))  # down into the subnormals
    near_ties = [float32_values(-k - 0.5 - 1e-4, -k - 0.5 + 1e-4) for k in range(43)]
    near_integers = [float32_values(-k - 1e-5, -k + 1e-5) for k in range(1, 43)]
    return torch.cat([uniform, spread, *near_ties, *near_integers, torch.arange(-86.0, 1.0) / 2])

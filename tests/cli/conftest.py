"""A tiny model, and the command on it."""

import json

import pytest
import torch

from pyllmdecode.cli import main


@pytest.fixture(autouse=True)
def one_thread():
    """More threads only cost time on a model of this size."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="session")
def folder(tmp_path_factory):
    """A random model that transformers can load, with a byte tokenizer."""
    helpers = pytest.importorskip("test_generate")
    path = tmp_path_factory.mktemp("model")
    tokenizer = helpers.byte_tokenizer()
    tokenizer.eos_token = None
    tokenizer.save_pretrained(path)
    helpers.tiny_llama(torch.float32).save_pretrained(path)
    return str(path)


@pytest.fixture
def generate(folder, capsys):
    """Runs `generate` on that model; -> (stdout, stderr)."""

    def call(*arguments: str) -> tuple[str, str]:
        assert main(["generate", "--model", folder, "--max-new-tokens", "20", *arguments]) == 0
        return capsys.readouterr()

    return call


@pytest.fixture
def records(generate):
    """Runs `generate --json` on that model; -> the objects."""

    def call(*arguments: str) -> list[dict]:
        return [json.loads(line) for line in generate("--json", *arguments)[0].splitlines()]

    return call


@pytest.fixture
def refused(folder, capsys):
    """Runs a `generate` that ends in one line and status 2; -> that line. A later --model counts."""

    def call(*arguments: str) -> str:
        with pytest.raises(SystemExit) as stop:
            main(["generate", "--model", folder, *arguments])
        out, err = capsys.readouterr()
        assert stop.value.code == 2 and out == ""
        assert err.count("\n") == 1 and err.endswith("\n"), err
        return err

    return call

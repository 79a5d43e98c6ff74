"""The data for training: sentences, batches, and the examples as they stand."""

import runpy
from pathlib import Path

import pytest
import torch

from pyllmdecode import losses

EXAMPLES = Path(__file__).parent.parent.parent / "examples"


class Bytes:
    """A tokenizer of a token per byte."""

    def __call__(self, text, add_special_tokens=True):
        return {"input_ids": [1] * add_special_tokens + [b + 2 for b in text.encode()]}


TEXT = {"text": "One two. Three four five? “Six!” he said. " + "very " * 30 + "long."}


@pytest.mark.parametrize(
    "text, sentences",
    [
        ("", []),
        ("No end", ["No end"]),
        ("It cost 3.50 euros. Too much!", ["It cost 3.50 euros.", "Too much!"]),
        ("“Stop!” he said.  Why…", ["“Stop!”", "he said.", "Why…"]),
        ("你好。世界！再见", ["你好。", "世界！", "再见"]),
        ("यह पहला है। यह दूसरा है।", ["यह पहला है।", "यह दूसरा है।"]),
        ("هل تسمع؟ نعم۔", ["هل تسمع؟", "نعم۔"]),
    ],
)
def test_sentences(text, sentences):
    assert list(losses.split_sentences(text)) == sentences


def test_texts():
    batch = losses.Collator(Bytes(), 12, ditto_share=0)([{"text": "abc"}, TEXT])
    assert batch["input_ids"].shape == batch["labels"].shape == batch["attention_mask"].shape == (2, 12)
    assert batch["labels"][0].tolist() == [1, 99, 100, 101] + [-100] * 8
    assert batch["attention_mask"].sum(1).tolist() == [4, 12]
    assert torch.equal(batch["labels"][1], batch["input_ids"][1])


def test_repetitions():
    """A sentence after the one before it, over and over; both are those of the text."""
    collator = losses.Collator(Bytes(), 64, ditto_share=1)
    pairs = set()
    for _ in range(20):
        batch = collator([TEXT, {"text": "x"}])
        assert batch["input_ids"].shape == (2, 64)
        assert losses.ditto(torch.randn(2, 64, 300), *batch.values()).isfinite()  # which checks that they repeat
        ids, size, prefix = (batch[name][0] for name in ("input_ids", "sentence_lengths", "prefix_lengths"))
        text = bytes((ids - 2).tolist())
        pairs.add((text[:prefix].decode(), text[prefix : prefix + size].decode()))
        assert batch["sentence_lengths"][1] == 1 and batch["prefix_lengths"][1] == 0
    assert pairs == {("One two.", " Three four five?"), (" Three four five?", " “Six!”"), (" “Six!”", " he said.")}


def test_share_and_errors():
    collator = losses.Collator(Bytes(), 64, seed=3)
    kinds = ["sentence_lengths" in collator([TEXT]) for _ in range(200)]
    assert 70 < sum(kinds) < 130
    again = losses.Collator(Bytes(), 64, seed=3)
    assert kinds == ["sentence_lengths" in again([TEXT]) for _ in range(200)]
    with pytest.raises(TypeError, match=r"examples\[1\]: got"):
        collator([TEXT, {"texts": "x"}])
    with pytest.raises(ValueError, match="ditto_share: got 2"):
        losses.Collator(Bytes(), 64, ditto_share=2)


def test_replay_example(capsys):
    """Nothing has been learned at first, and then all ratios are 1."""
    pytest.importorskip("transformers")
    runpy.run_path(str(EXAMPLES / "grpo_with_replay.py"), run_name="__main__")
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].endswith("ratios 1.0000 to 1.0000") and len(lines) == 4
    assert float(lines[-1].split()[3].rstrip(",")) < float(lines[1].split()[3].rstrip(",")) < 0


@pytest.mark.thorough
def test_trainer_example(tmp_path):
    """A tiny model learns from both kinds of batches."""
    transformers = pytest.importorskip("transformers")
    tokenizers = pytest.importorskip("tokenizers")
    words = "the a of and to in harbour clock soup letter river bird roof glass bee lake . ? !".split()
    inner = tokenizers.Tokenizer(tokenizers.models.WordLevel({w: n for n, w in enumerate(["<unk>", *words])}, "<unk>"))
    inner.pre_tokenizer = tokenizers.pre_tokenizers.Whitespace()
    transformers.PreTrainedTokenizerFast(tokenizer_object=inner, unk_token="<unk>").save_pretrained(tmp_path / "model")
    sizes = {"vocab_size": 20, "hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 1}
    config = transformers.LlamaConfig(**sizes, num_attention_heads=2, max_position_embeddings=256)
    transformers.LlamaForCausalLM(config).save_pretrained(tmp_path / "model")
    paragraph = "the clock of the harbour . a bird and the roof ? to the lake in a letter ! soup and glass . " * 3
    (tmp_path / "text.txt").write_text("\n\n".join([paragraph] * 16))
    train = runpy.run_path(str(EXAMPLES / "train_against_repetition.py"))["train"]
    options = {"learning_rate": 1e-2, "num_train_epochs": 6, "use_cpu": True, "logging_steps": 1}
    trainer = train(str(tmp_path / "model"), str(tmp_path / "text.txt"), str(tmp_path / "out"), **options)
    history = [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]
    assert len(history) == 24 and all(value == value for value in history)
    assert max(history[-6:]) < max(history[:6])

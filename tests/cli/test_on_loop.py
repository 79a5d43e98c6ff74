"""Loops in the decode loop: what is dropped is gone from the model's memory and from the text; --on-loop."""

import pytest
import torch
from test_generate import byte_tokenizer, tiny_llama

import pyllmdecode as pld
from pyllmdecode import RepetitionDetection, SamplingParams, policies
from pyllmdecode.cli import main
from pyllmdecode.cli.generate import generate

DETECTION = RepetitionDetection(8, min_count=3)
FEW = [65, 66, 67, 68]  # with which a random model soon repeats itself
PROMPTS = ["a", "some longer text", "xyz"]


def test_a_model_goes_on_as_if_nothing_had_been_dropped():
    """Before each draw its logits are those of the tokens that are left, run through it anew."""
    texts, dropped, checked = [[] for _ in PROMPTS], [], []

    def token(row, token):
        texts[row].append(token)

    def rewind(row, n):
        dropped.append(n)
        del texts[row][len(texts[row]) - n :]

    def compare(rows, logits):
        for place, row in enumerate(rows):
            ids = torch.tensor([tokenizer(PROMPTS[row])["input_ids"] + texts[row]])
            with torch.inference_mode():
                anew = model(ids).logits[0, -1]
            assert torch.allclose(logits[place], anew, atol=1e-4), (row, len(dropped))
            checked.append(row)

    model, tokenizer = tiny_llama(torch.float32), byte_tokenizer()
    params = [SamplingParams(temperature=t, seed=3, allowed_token_ids=FEW) for t in (0.0, 0.2, 0.0)]
    made = generate(
        model,
        tokenizer,
        PROMPTS,
        params,
        max_new_tokens=40,
        policy=pld.LoopPolicy(policies.regenerate(tokens=5, tries=3), DETECTION),
        on_token=token,
        on_rewind=rewind,
        on_logits=compare,
    )
    assert made.token_ids == texts and len(dropped) > 1 and max(dropped) > 1 and set(checked) == {0, 1, 2}
    for ids in texts:
        assert pld.repetition.detect(ids, DETECTION).first is None


def test_texts_end_where_they_began_to_repeat_themselves():
    model, tokenizer, params = (
        tiny_llama(torch.float32),
        byte_tokenizer(),
        SamplingParams(temperature=0, allowed_token_ids=FEW),
    )
    stop = pld.LoopPolicy(policies.stop, DETECTION)
    made = generate(model, tokenizer, PROMPTS[:1], params, max_new_tokens=40, policy=stop)
    plain = generate(model, tokenizer, PROMPTS[:1], params, max_new_tokens=40)
    assert made.finish_reasons[0] == "loop" and 0 < len(made.token_ids[0]) < 40
    assert plain.token_ids[0][: len(made.token_ids[0])] == made.token_ids[0]
    assert pld.repetition.detect(plain.token_ids[0], DETECTION).first is not None


def test_on_loop(records, generate):
    options = ["--prompt", "a", "--temperature", "0", "--repetition-detection", "max_pattern_size=8", "min_count=2"]
    (plain,) = records(*options)
    (stopped,) = records(*options, "--on-loop", "stop")
    assert stopped["finish_reason"] == "loop" and len(stopped["token_ids"]) < len(plain["token_ids"])
    assert plain["text"].startswith(stopped["text"])
    (escaped,) = records(*options, "--on-loop", "escape:-")
    assert "-" in escaped["text"] and escaped["token_ids"][: len(stopped["token_ids"])] == stopped["token_ids"]
    (again,) = records(*options, "--on-loop", "regenerate", "--logprobs", "raw")
    assert len(again["logprobs"]) == len(again["token_ids"])
    out, _ = generate(*options, "--on-loop", "stop")
    assert out == stopped["text"] + "\n"


@pytest.mark.parametrize("wrong", ["", "go", "escape:", "escape", "stop:now"])
def test_wrong_on_loop(refused, wrong):
    said = f"on_loop: got {wrong!r}; accepted: stop, regenerate, escape:TEXT"
    assert said in refused("--prompt", "a", "--on-loop", wrong)


def test_wrong_detection(capsys):
    for wrong in ("max=3", "max_pattern_size", "n=x"):
        with pytest.raises(SystemExit):
            main(["generate", "--prompt", "a", "--repetition-detection", wrong])
        assert "accepted: NAME=VALUE with one of the names max_pattern_size" in capsys.readouterr().err

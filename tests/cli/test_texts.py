"""What `generate` prints: JSON, several texts of a prompt, stop texts, seeds; and where it cannot print."""

import io
import json
import re

import pytest
import torch
from command import run

from pyllmdecode.cli import main

LETTERS = ["--allowed-token-ids", *map(str, range(64, 90))]  # of the byte tokenizer: a to z
SAMPLED = ["--temperature", "2", "--repetition-penalty", "1.1"]
PROMPTS = ["once", "日本", "x = 1\ny"]
RECORD = {"prompt", "text", "finish_reason", "token_ids", "prompt_ids", "seed"}


@pytest.fixture(scope="module")
def tokenizer(folder):
    return pytest.importorskip("transformers").AutoTokenizer.from_pretrained(folder)


def test_json_is_an_object_a_line_and_nothing_else(records, tokenizer):
    made = records("--prompt", *PROMPTS, *SAMPLED, "-n", "2", "--seed", "5")
    assert [one["prompt"] for one in made] == [prompt for prompt in PROMPTS for _ in range(2)]
    for one in made:
        assert set(one) == RECORD and one["finish_reason"] == "length" and len(one["token_ids"]) == 20
        assert one["prompt_ids"] == tokenizer(one["prompt"])["input_ids"]
        assert one["prompt"] + one["text"] == tokenizer.decode(one["prompt_ids"] + one["token_ids"])


def test_json_says_what_is_printed_otherwise(records, generate):
    arguments = ["--prompt", *PROMPTS, *SAMPLED, *LETTERS, "-n", "2", "--seed", "5"]
    expected = "\n".join(f">>> {one['prompt']}\n{one['text']}\n" for one in records(*arguments))
    assert generate(*arguments)[0] == expected


def test_each_text_comes_again_from_its_own_seed(records):
    made = records("--prompt", *PROMPTS, *SAMPLED, *LETTERS, "-n", "3", "--seed", "7")
    assert [one["seed"] for one in made] == [7, 8, 9] * len(PROMPTS)
    assert len({one["text"] for one in made}) == len(made)
    for one in made:
        assert records("--prompt", one["prompt"], *SAMPLED, *LETTERS, "--seed", str(one["seed"])) == [one]


def test_a_prompt_given_twice_is_two_texts_of_it(records):
    twice = records("--prompt", "once", "x", "once", *SAMPLED, "--seed", "7")
    first, second = records("--prompt", "once", *SAMPLED, "--seed", "7", "-n", "2")
    assert [twice[0], twice[2]] == [first, second] and first["text"] != second["text"]


@pytest.mark.parametrize("seed, seeds", [("-1", [-1, 0]), (str(2**64 - 1), [2**64 - 1, 0])])
def test_the_seed_after_the_last_is_the_first(records, seed, seeds):
    made = records("--prompt", "once", "--seed", seed, "-n", "2")
    assert [one["seed"] for one in made] == seeds


def test_batches_do_not_matter(records):
    arguments = ["--prompt", *PROMPTS, *SAMPLED, "-n", "2", "--seed", "5", "--batch-size"]
    assert records(*arguments, "1") == records(*arguments, "4") == records(*arguments, "100")


def test_a_seed_that_was_drawn_is_printed_and_repeats_the_texts(generate):
    """Torch's own generator starts every process with the same seed, and would always draw the same text."""
    arguments = ["--prompt", "once", "once", *SAMPLED, *LETTERS, "--json"]
    torch.manual_seed(0)
    first = generate(*arguments)
    torch.manual_seed(0)
    second = generate(*arguments)
    texts = [json.loads(line)["text"] for line in (first[0] + second[0]).splitlines()]
    assert len(set(texts)) == 4
    seed = re.search(r"^seed (\d+) \(--seed \1 draws the same again\)$", first[1], re.MULTILINE).group(1)
    again = generate(*arguments, "--seed", seed)
    assert again[0] == first[0] and "seed" not in again[1]
    assert json.loads(first[0].splitlines()[0])["seed"] == int(seed) < 2**53


def test_greedy_texts_need_no_seed(generate):
    assert "seed" not in generate("--prompt", "once", "--temperature", "0")[1]


@pytest.mark.parametrize("form", [[], ["--no-stream"], ["--json"]])
def test_a_text_ends_before_a_stop_text(generate, form):
    """A letter is a token here, so that a stop text of three spans three."""

    def text(*more: str) -> str:
        out = generate("--prompt", "once", *SAMPLED, *LETTERS, "--seed", "7", *form, *more)[0]
        return json.loads(out)["text"] if form == ["--json"] else out.removesuffix("\n")

    whole = text()
    assert len(whole) == 20
    for begin in (0, 6, 17):
        stop = whole[begin : begin + 3]
        assert text("--stop", stop, "no such") == whole[: whole.index(stop)]
    assert text("--stop", whole[4:7] + "0", whole[-1] + "0") == whole  # held back, and printed after all


def test_the_reason_is_that_of_the_end(records):
    def reason(*more: str) -> tuple[str, int]:
        (one,) = records("--prompt", "once", *SAMPLED, *LETTERS, "--seed", "7", *more)
        return one["finish_reason"], len(one["token_ids"])

    (whole,) = records("--prompt", "once", *SAMPLED, *LETTERS, "--seed", "7")
    text, ids = whole["text"], whole["token_ids"]
    assert reason() == ("length", 20)
    assert reason("--stop", text[3:5]) == ("stop", text.index(text[3:5]) + 2)
    assert reason("--eos-token-ids", str(ids[4])) == ("eos", ids.index(ids[4]) + 1)


@pytest.mark.parametrize("form", [[], ["--json"]])
def test_a_text_of_which_everything_is_banned_ends_with_a_sentence(generate, form):
    few = ["--allowed-token-ids", "64", "65", "--no-repeat-ngram-size", "1", "--seed", "1"]
    out, err = generate("--prompt", "b", "z", *few, *form)
    sentence = r"prompts\[{}\]: after {} tokens every token is banned or -inf \(EMPTY_ROW\); the text ends there\n"
    assert re.search(sentence.format(0, 1) + sentence.format(1, 2), err), err
    if form:
        made = [json.loads(line) for line in out.splitlines()]
        assert [(one["text"], one["finish_reason"]) for one in made][0] == ("a", "empty")
        assert sorted(made[1]["text"]) == ["a", "b"]
    else:
        assert out.startswith(">>> b\na\n\n>>> z\n")


def test_texts_are_printed_as_soon_as_those_before_are(folder, monkeypatch, capsys):
    """An end in the middle, as by Ctrl-C, loses what is not finished and nothing else."""
    from pyllmdecode.cli import generate

    real, calls = generate.generate, []

    def interrupted(*arguments, **options):
        calls.append(1)
        if len(calls) == 3:
            raise KeyboardInterrupt
        return real(*arguments, **options)

    monkeypatch.setattr(generate, "generate", interrupted)
    options = ["--model", folder, "--max-new-tokens", "3", "--json", "--batch-size", "1"]
    assert main(["generate", "--prompt", "a", "b", "c", *options]) == 130
    assert [json.loads(line)["prompt"] for line in capsys.readouterr().out.splitlines()] == ["a", "b"]


@pytest.mark.parametrize("arguments", [["--help"], ["info"], ["generate"], ["generate", "--json", "-n", "2"]])
def test_a_full_disk_is_a_sentence(folder, monkeypatch, capsys, arguments):
    if arguments[0] == "generate":
        arguments = [*arguments, "--model", folder, "--prompt", "a", "--seed", "1"]
    with open("/dev/full", "w") as full, pytest.raises(SystemExit) as stop:
        monkeypatch.setattr("sys.stdout", full)
        main(arguments)
    assert stop.value.code == 1
    assert capsys.readouterr().err == "pyllmdecode: error: output: cannot be written: No space left on device\n"


def test_nothing_of_a_full_disk_is_left_for_the_end_of_the_process():
    with open("/dev/full", "w") as full:
        result = run("--version", stdout=full, PYTHONUNBUFFERED="")
    assert result.returncode == 1
    assert result.stderr == "pyllmdecode: error: output: cannot be written: No space left on device\n"


def test_a_closed_output_is_a_sentence(monkeypatch, capsys):
    monkeypatch.setattr("sys.stdout", None)
    with pytest.raises(SystemExit) as stop:
        main(["--version"])
    assert stop.value.code == 1 and "error: output: standard output is closed" in capsys.readouterr().err


def test_without_anybody_for_the_notes_they_do_not_go_to_the_output(generate, monkeypatch):
    monkeypatch.setattr("sys.stderr", None)
    (line,) = generate("--prompt", "a", "--json")[0].splitlines()
    assert json.loads(line)["prompt"] == "a"


@pytest.mark.parametrize("form", [[], ["--no-stream"], ["--json"]])
def test_a_terminal_without_the_characters_gets_all_it_can_show(folder, generate, monkeypatch, capsys, form):
    prompts = ["日本", "x"] if form else ["日本"]
    arguments = ["--prompt", *prompts, *SAMPLED, "--seed", "1", *form]
    expected = generate(*arguments)[0]
    terminal = io.TextIOWrapper(io.BytesIO(), encoding="ascii")
    monkeypatch.setattr("sys.stdout", terminal)
    command = ["generate", "--model", folder, "--max-new-tokens", "20", *arguments]
    if form == ["--json"]:
        assert main(command) == 0
    else:
        assert not expected.isascii()
        with pytest.raises(SystemExit) as stop:
            main(command)
        last = capsys.readouterr().err.splitlines()[-1]
        assert stop.value.code == 1 and "error: output: some characters are not in ascii" in last
    written = terminal.buffer.getvalue()
    assert written == expected.encode("ascii", "backslashreplace")


def test_log_probabilities_of_every_token(records):
    (plain,) = records("--prompt", "once", "--temperature", "2", "--seed", "5")
    assert "logprobs" not in plain
    asks = ["--logprobs", "both", "--top-logprobs", "3"]
    (record,) = records("--prompt", "once", "--temperature", "2", "--seed", "5", *asks)
    assert record["token_ids"] == plain["token_ids"] and len(record["logprobs"]) == len(record["token_ids"])
    for token, said in zip(record["token_ids"], record["logprobs"], strict=True):
        assert said["raw_logprob"] <= 0 and said["rank"] >= 1 and len(said["top"]) == 3
        values = dict(said["top"])
        assert values.get(token, said["logprob"]) == said["logprob"] <= max(values.values()) + 1e-6
    (listed,) = records("--prompt", "once", "--temperature", "0", "--top-logprobs", "1")
    assert [said["top"][0][0] for said in listed["logprobs"]] == listed["token_ids"]

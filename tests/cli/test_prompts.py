"""Prompts from arguments, standard input and files: what is read, and a sentence for what cannot be."""

import io
import json
import os

import pytest

from pyllmdecode.cli.prompts import read_prompts


@pytest.fixture
def stdin(monkeypatch):
    """Sets what is on standard input, of a terminal that knows ASCII only."""

    def put(raw: bytes) -> None:
        monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(raw), encoding="ascii"))

    return put


@pytest.mark.parametrize(
    "raw, prompt",
    [
        (b"once\n", "once"),
        (b"once", "once"),
        (b"two\nlines\n\n", "two\nlines\n"),
        ("日本\r\n".encode(), "日本"),
        (b"\xef\xbb\xbfmarked", "marked"),
    ],
)
def test_a_dash_is_standard_input_as_one_prompt(stdin, raw, prompt):
    stdin(raw)
    assert read_prompts(["before", "-", "after"], []) == ["before", prompt, "after"]


def test_a_file_has_a_prompt_a_line(tmp_path, stdin):
    path = tmp_path / "prompts.txt"
    path.write_bytes("first\n\n  second \r\nü\u2028still the third\n\t\nlast".encode())
    prompts = ["first", "  second ", "ü\u2028still the third", "last"]
    assert read_prompts([], [str(path)]) == prompts
    stdin(path.read_bytes())
    assert read_prompts(["argument"], ["-", str(path)]) == ["argument", *prompts, *prompts]


def test_a_jsonl_file_has_objects(tmp_path):
    path = tmp_path / "prompts.jsonl"
    prompts = ["one", "two\nlines", "日本 \U0001f642", ""]
    for ascii_only in (True, False):
        lines = [json.dumps({"id": i, "prompt": text}, ensure_ascii=ascii_only) for i, text in enumerate(prompts)]
        path.write_text("\n\n".join(lines) + "\n")
        assert read_prompts([], [str(path)]) == prompts


@pytest.mark.parametrize(
    "name, raw, message",
    [
        ("a.txt", b"\n \n", r"a\.txt has no prompts; accepted: one a line"),
        ("a.txt", b"one\ntw\xff", r"a\.txt: got the byte 0xff at 6; accepted: text in UTF-8"),
        ("a.jsonl", b'{"prompt": "one"}\n\n{"text": "two"}', r"""a\.jsonl, line 3: got '{"text": "two"}'; accepted"""),
        ("a.jsonl", b'{"prompt": 1}', r"line 1: got .*; accepted: a JSON object with a string"),
        ("a.jsonl", b'["prompt"]', r"line 1: got .*; accepted: a JSON object with a string"),
        ("a.jsonl", b"once", r"line 1: got 'once'; accepted: a JSON object with a string"),
        ("a.jsonl", b"[" * 100_000, r"line 1: got '\[.*\.\.\..*\['; accepted: a JSON object with a string"),
        ("a.jsonl", rb'{"prompt": "\ud83d"}', r"prompts\[0\]: got '\\ud83d' in it; accepted: text in UTF-8"),
    ],
)
def test_files_that_hold_something_else(tmp_path, name, raw, message):
    (tmp_path / name).write_bytes(raw)
    with pytest.raises(ValueError, match=message):
        read_prompts([], [str(tmp_path / name)])


@pytest.mark.parametrize(
    "texts, files, message",
    [
        ([], [], "prompt: got none; accepted: --prompt TEXT, "),
        (["-", "-"], [], "prompt: got - more than once"),
        (["-"], ["-"], "prompt: got - more than once"),
        (["-"], [], "prompt: got nothing on standard input"),
        ([], ["/nowhere"], "prompt-file: /nowhere cannot be read: No such file"),
        ([], ["/"], "prompt-file: / cannot be read: Is a directory"),
        (["fine", "a\udce9"], [], r"prompts\[1\]: got '\\udce9' in it; accepted: text in UTF-8"),
    ],
)
def test_arguments_that_give_no_prompt(stdin, texts, files, message):
    stdin(b"\n")
    with pytest.raises(ValueError, match=message):
        read_prompts(texts, files)


def test_arguments_that_are_not_utf8_are_a_sentence(refused):
    name = os.fsdecode(b"a\xe9b")
    for option in ("--prompt", "--stop", "--model", "--prompt-file", "--backend"):
        assert "\\udce9" in refused("--prompt", "a", option, name)


def test_standard_input_is_utf8_on_any_terminal(stdin, generate):
    stdin("日本\n".encode())
    arguments = ["--seed", "1", "--json"]
    assert generate("--prompt", "-", *arguments)[0] == generate("--prompt", "日本", *arguments)[0]

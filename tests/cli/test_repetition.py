"""`pyllmdecode repetition` and `dedupe`: what they print, and what ends in a sentence."""

import json
import os
import subprocess
import sys

import pytest
from command import ROOT, run

from pyllmdecode.cli import main

TEXT = "I am happy I am happy I am happy.\nThe cat sat on the mat today. The cat sat on the mat today.\n"
CLEAN = "I am happy.\nThe cat sat on the mat today.\n"


@pytest.fixture
def file(tmp_path):
    path = tmp_path / "a.txt"
    path.write_text(TEXT)
    return str(path)


def test_metrics_and_marks(file, capsys, monkeypatch):
    assert main(["repetition", file]) == 0
    out, err = capsys.readouterr()
    header, numbers, empty, first, second, *_ = out.split("\n")
    assert err == "" and header.split() == ["words", "rep-2", "rep-4", "diversity", "distinct", "loop"]
    assert numbers.split()[1] == "26" and numbers.endswith("of 3, from 9 on")
    assert (empty, first) == ("", "I am happy [[I am happy I am happy]].")
    assert second.count("[[") == 1
    assert main(["repetition", "--color", "always", file]) == 0
    assert "I am happy \033[31mI am happy I am happy\033[0m." in capsys.readouterr().out
    assert main(["repetition", "--metrics", file, file]) == 0
    assert len(capsys.readouterr().out.splitlines()) == 3
    assert main(["repetition", "--lines", "1", file]) == 0
    assert capsys.readouterr().out.endswith("... 2 more lines (--lines 0 shows all)\n")


def test_dedupe_prints_the_text_without(file, capsys):
    assert main(["dedupe", file]) == 0
    out, err = capsys.readouterr()
    assert out == CLEAN and err == "[2 parts taken out, 52 of 94 (55%) characters or ids]\n"
    assert main(["dedupe", "--show", file]) == 0
    assert capsys.readouterr().out.startswith("I am happy[[ I am happy I am happy]].\n")
    assert main(["dedupe", "--keep", "2", "--blocks-only", file]) == 0
    assert capsys.readouterr().out == TEXT.replace(" I am happy", "", 1)
    assert main(["dedupe", "--phrases", "0", file]) == 0
    assert capsys.readouterr().out.startswith("I am happy I am happy I am happy.\n")


def test_lines_of_json(tmp_path, capsys):
    path = tmp_path / "a.jsonl"
    records = [{"text": TEXT, "seed": 3}, {"token_ids": [4, 5, 4, 5, 4, 5]}, {"text": "今天，今天，今天，好。\ud800"}]
    path.write_text("\n\n".join(map(json.dumps, records)))
    assert main(["dedupe", str(path)]) == 0
    made = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert made[0]["text"] == CLEAN and made[0]["seed"] == 3 and len(made[0]["removed"]) == 2
    assert made[1] == {"token_ids": [4, 5], "removed": [{"start": 2, "stop": 6, "reason": "block"}]}
    assert made[2]["text"] == "今天，好。\ud800"
    assert main(["repetition", "--metrics", str(path)]) == 0
    out = capsys.readouterr().out
    assert f"{path}:3"[-22:] in out and out.count("from") == 3


@pytest.mark.parametrize("command", ["repetition", "dedupe"])
@pytest.mark.parametrize(
    "name, content, said",
    [
        ("a.txt", b"\x7fELF\xd0\x00", "got the byte 0xd0 at 4; accepted: text in UTF-8"),
        ("a.jsonl", b'{"text": 3}', 'a.jsonl:1: got \'{"text": 3}\'; accepted: a JSON object with a string "text"'),
        ("a.jsonl", b'{"token_ids": [1, -1]}', "accepted: a JSON object"),
        ("a.jsonl", b"[" * 100_000, "accepted: a JSON object"),
        ("folder/a.txt", None, "cannot be read: No such file"),
    ],
)
def test_what_cannot_be_read_ends_in_a_sentence(tmp_path, capsys, command, name, content, said):
    path = tmp_path / name
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(SystemExit) as stop:
        main([command, str(path)])
    out, err = capsys.readouterr()
    assert stop.value.code == 2 and err.count("\n") == 1 and said in err


@pytest.mark.parametrize("command", ["repetition", "dedupe"])
@pytest.mark.parametrize("content", ["", "\n", " ", "a"])
def test_almost_nothing(tmp_path, capsys, command, content):
    for name in ("a.txt", "a.jsonl"):
        path = tmp_path / name
        path.write_text(content if name == "a.txt" else content.strip("a"))
        assert main([command, str(path)]) == 0
        capsys.readouterr()


@pytest.mark.parametrize("options", [["--keep", "0"], ["--max-size", "0"], ["--near", "2"], ["--phrases", "-1"]])
def test_wrong_options(file, capsys, options):
    with pytest.raises(SystemExit) as stop:
        main(["dedupe", file, *options])
    assert stop.value.code == 2 and options[0].strip("-").replace("-", "_") in capsys.readouterr().err


def test_a_terminal_without_the_characters(tmp_path):
    result = run("dedupe", "-", stdin="今天很好。", PYTHONIOENCODING="ascii:strict", PYTHONUTF8="0")
    # What the child reads is UTF-8 in any case.
    assert result.returncode == 1 and result.stdout.startswith("\\u4eca") and "a terminal in UTF-8" in result.stderr


def test_a_reader_that_leaves(tmp_path):
    path = tmp_path / "long.txt"
    path.write_text("\n".join(f"line {number} of many" for number in range(100_000)))
    command = [sys.executable, "-m", "pyllmdecode", "repetition", "--lines", "0", str(path)]
    reader, writer = os.pipe()
    os.close(reader)
    result = subprocess.run(command, cwd=ROOT, stdout=writer, stderr=subprocess.PIPE, text=True, timeout=300)
    os.close(writer)
    assert result.returncode == 141 and result.stderr == ""


@pytest.mark.parametrize("command", ["repetition", "dedupe"])
def test_help(command, capsys):
    with pytest.raises(SystemExit) as stop:
        main([command, "--help"])
    assert stop.value.code == 0 and "standard input" in " ".join(capsys.readouterr().out.split())

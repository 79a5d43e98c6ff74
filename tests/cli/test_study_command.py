"""`pyllmdecode study`: what it writes, and what ends in a sentence."""

import json

import pytest

from pyllmdecode.cli import main

TEXT = "One two three. Four five! “Six seven eight nine,” he said. " * 3


def study(folder, *arguments):
    return main(["study", "--model", folder, *arguments])


def test_files(folder, tmp_path, capsys):
    """Numbers of every kind of sentence, the same for the same seed, and pictures of them."""
    pytest.importorskip("matplotlib")
    (tmp_path / "text.txt").write_text(TEXT)
    found = []
    for out in ("first", "second"):
        options = ["--text", str(tmp_path / "text.txt"), "--sentences", "3", "--max-length", "90", "--seed", "4"]
        assert study(folder, *options, "--out", str(tmp_path / out)) == 0
        found.append(json.loads((tmp_path / out / "study.json").read_text()))
    printed = capsys.readouterr()
    assert found[0] == found[1] and found[0]["seed"] == 4 and found[0]["model"] == folder
    for kind in ("corpus", "own", "random"):
        one = found[0]["kinds"][kind]
        assert one["sentences"] == 3 and len(one["initial"]) == len(one["strongest"]) == 3
        assert len(one["probability"]) == len(one["rises"]) == len(one["wins"]) > 3
        assert one["rises"][0] == one["wins"][0] == 0 and one["ceiling"] >= max(one["initial"]) / 3
        assert all(0 <= value <= 1 for field in ("probability", "rises", "wins") for value in one[field])
    for name in ("probability", "rises", "wins", "strength"):
        assert (tmp_path / "first" / f"{name}.svg").read_text().rstrip().endswith("</svg>")
    assert "random tokens" in printed.out and "study.json" in printed.out


@pytest.mark.parametrize(
    "arguments, message",
    [
        (["--sentences", "0"], "sentences: got 0"),
        (["--max-length", "20"], "max_length: got 20; accepted: an integer of at least 32"),
        (["--max-length", "100000"], "max_length: got 100000; accepted by the model: up to"),
        (["--max-length", "90", "--text", "nowhere.txt"], "No such file"),
        (["--model", "nowhere"], "nowhere"),
    ],
)
def test_errors(folder, tmp_path, capsys, arguments, message):
    with pytest.raises(SystemExit) as stop:
        study(folder, "--out", str(tmp_path / "out"), *arguments)
    err = capsys.readouterr().err
    assert stop.value.code == 2 and message in err and "Traceback" not in err


def test_a_text_without_sentences(folder, tmp_path, capsys):
    (tmp_path / "text.txt").write_text("a")
    with pytest.raises(SystemExit):
        study(folder, "--text", str(tmp_path / "text.txt"), "--out", str(tmp_path / "out"), "--max-length", "80")
    assert "text: got no sentence of 4 to 20 tokens" in capsys.readouterr().err

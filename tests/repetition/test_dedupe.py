"""Texts and ids without their repetitions: examples of many scripts, and what must hold of any."""

import random
import re
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pyllmdecode.repetition import dedupe, dedupe_ids
from pyllmdecode.repetition.pieces import normal, sentences

FOX = "The quick brown fox jumps over the lazy dog."
TEXTS = {
    "I am sure I am sure I am sure I am sure of it.": "I am sure of it.",
    "No no no no.": "No no.",  # the first is another word
    "very, very good": "very, very good",
    f"{FOX} {FOX} It slept.": f"{FOX} It slept.",
    f"{FOX}\n\nIt slept.\n\n{FOX}\nNext.\n": f"{FOX}\n\nIt slept.\n\nNext.\n",
    f"{FOX}  The\n quick": f"{FOX}  The\n quick",
    f"One. {FOX}\nTwo. {FOX}\nThree.": f"One. {FOX}\nTwo.\nThree.",
    "Yes. I see. Yes. I go.": "Yes. I see. Yes. I go.",  # too short to count
    "Is it so? It is so! Is it so? It is so! Good.": "Is it so? It is so! Good.",
    "1 2 1 2 1 2\n|---|---|---|---|\n----- ..... =====\n": "1 2 1 2 1 2\n|---|---|---|---|\n----- ..... =====\n",
    "\t- one item in a list\n\t- one item in a list\n\t- another item\n": "\t- one item in a list\n\t- another item\n",
    "好的好的好的，我们走吧。": "好的，我们走吧。",
    "今天天气很好，我们去公园玩。然后回家。今天天气很好，我们去公园玩。": "今天天气很好，我们去公园玩。然后回家。",
    "今日は天気がいいですね。今日は天気がいいですね。": "今日は天気がいいですね。",
    "मैं घर जा रहा हूँ आज। मैं घर जा रहा हूँ आज। फिर सोया।": "मैं घर जा रहा हूँ आज। फिर सोया।",
    "هل ستذهب إلى السوق اليوم؟ هل ستذهب إلى السوق اليوم؟": "هل ستذهب إلى السوق اليوم؟",
    "ไปไปไปไป": "ไป",
    "Ja, ja, ja, ja, gut.": "Ja, ja, gut.",
    "": "",
    " \n\t": " \n\t",
    "\ud800 \ud800 \ud800 a": "\ud800 \ud800 \ud800 a",
}


def without(text, removed):
    """The text less the spans, as a person would cut it."""
    assert all(start < stop for start, stop, _ in removed)
    assert all(one.stop <= other.start for one, other in zip(removed, removed[1:]))
    edges = [0, *[place for start, stop, _ in removed for place in (start, stop)], len(text)]
    return [text[begin:end] for begin, end in zip(edges[::2], edges[1::2])]


@pytest.mark.parametrize("text", TEXTS)
def test_texts(text):
    found = dedupe(text)
    assert found.kept == TEXTS[text]
    assert "".join(without(text, found.removed)) == found.kept


def test_reasons_and_places():
    text = f"Well well well. {FOX} Then this. {FOX} {FOX}"
    found = dedupe(text)
    assert found.kept == f"Well well well. {FOX} Then this."
    assert {reason for _, _, reason in found.removed} == {"block", "sentence"}
    assert dedupe(text, seen=False).kept == f"Well well well. {FOX} Then this. {FOX}"
    assert dedupe(text, seen=False, keep=2).kept == text
    assert dedupe("go go go go go", keep=2, phrases=3).kept == "go go"
    assert dedupe("go go go go go", phrases=0).kept == "go go go go go"


def test_nearly_the_same():
    pytest.importorskip("rensa")
    other = FOX.replace("jumps", "jumped")
    text = f"{FOX} Something else entirely happened there. {other}"
    assert dedupe(text).kept == text
    found = dedupe(text, near=0.75)
    assert found.kept == f"{FOX} Something else entirely happened there."
    assert [reason for _, _, reason in found.removed] == ["near"]
    assert dedupe(text, near=0.99).kept == text


def test_near_ones_share_what_was_asked_for():
    """Against sets that are compared with all that were kept: nothing goes wrongly, and little is missed."""
    pytest.importorskip("rensa")
    rng = random.Random(1)
    words = [f"w{i}" for i in range(200)]
    lines = []
    for _ in range(60):
        base = rng.choices(words, k=12)
        for _ in range(4):
            line = list(base)
            for place in rng.sample(range(12), rng.randrange(4)):
                line[place] = rng.choice(words)
            lines.append(" ".join(line))
    rng.shuffle(lines)
    kept = dedupe("\n".join(lines), near=0.7, phrases=0).kept.split("\n")

    def jaccard(one, other):
        a, b = ({line[i : i + 4] for i in range(len(line) - 3)} for line in (one, other))
        return len(a & b) / len(a | b)

    expected = []
    for line in lines:
        if all(jaccard(line, other) < 0.7 for other in expected):
            expected.append(line)
    assert set(expected) <= set(kept) or len(set(kept) ^ set(expected)) <= 4
    assert len(set(lines)) > len(kept) + 20


@given(st.text(st.sampled_from("ab 。.\n,好\ud800"), max_size=60), st.integers(1, 3), st.integers(0, 4))
def test_any_text(text, keep, phrases):
    found = dedupe(text, keep=keep, phrases=phrases, min_width=3)
    assert "".join(without(text, found.removed)) == found.kept
    letters = [character for character in found.kept if character.isalpha()]
    assert set(letters) == {character for character in text if character.isalpha()}, "a whole word is gone"


@given(st.lists(st.integers(0, 3), max_size=40), st.integers(1, 3), st.integers(2, 4), st.integers(1, 12))
def test_ids_have_no_blocks_left(ids, keep, min_count, max_size):
    found = dedupe_ids(ids, keep=keep, min_count=min_count, max_size=max_size)
    assert sum(without(ids, found.removed), []) == found.kept
    count = max(min_count, keep + 1)
    for size in range(1, max_size + 1):
        for at in range(len(found.kept) - size * count + 1):
            blocks = [found.kept[at + k * size : at + (k + 1) * size] for k in range(count)]
            assert any(block != blocks[0] for block in blocks)
    if not found.removed:
        assert found.kept == ids


def test_sentences_of_ids():
    ids = [5, 6, 7, 8, 0, 1, 2, 0, 5, 6, 7, 8, 0, 1, 2, 0, 5, 6, 7, 8]
    found = dedupe_ids(ids, sentence_end_ids=[0], max_size=2)
    assert found.kept == [5, 6, 7, 8, 0, 1, 2, 0, 1, 2, 0, 5, 6, 7, 8]
    assert found.removed == [(8, 13, "sentence")]


def test_sentences_cover_the_text():
    text = 'He said "Go!" and went. See 3.14 or e.g. this… 他说：“好。”然后走了！\n- item one\n  what?! Yes'
    pieces = sentences(text)
    assert [normal(pieces.of(index)) for index in range(len(pieces.ids))] == [
        'He said "Go!"', "and went.", "See 3.14 or e.g.", "this…", "他说：“好。”", "然后走了！", "- item one",
        "what?!", "Yes",
    ]  # fmt: skip
    assert re.sub(r"\s", "", text) == "".join(re.sub(r"\s", "", pieces.of(index)) for index in range(len(pieces.ids)))


@pytest.mark.parametrize(
    "wrong, error",
    [
        ({"text": b"a"}, TypeError),
        ({"keep": 0}, ValueError),
        ({"keep": 1.5}, TypeError),
        ({"max_size": 0}, ValueError),
        ({"phrases": -1}, ValueError),
        ({"near": 0}, ValueError),
        ({"near": 1.1}, ValueError),
        ({"near": "a"}, TypeError),
        ({"min_width": -1}, ValueError),
    ],
)
def test_wrong_arguments(wrong, error):
    with pytest.raises(error, match=next(iter(wrong))):
        dedupe(**{"text": "a b", **wrong})


@pytest.mark.thorough
@pytest.mark.parametrize("near", [None, 0.8])
def test_megabytes_in_seconds(near):
    """5 MB of different sentences; twice as many take about twice as long."""
    pytest.importorskip("rensa")
    rng = random.Random(0)
    words = ["".join(rng.choices("abcdefghijklmnop", k=rng.randint(2, 9))) for _ in range(5000)]
    text = " ".join(" ".join(rng.choices(words, k=rng.randint(5, 20))) + "." for _ in range(65_000))
    seconds = {}
    for size in (len(text) // 2, len(text)):
        begin = time.process_time()
        dedupe(text[:size], near=near)
        seconds[size] = time.process_time() - begin
    assert seconds[len(text)] < 40 and seconds[len(text)] < 3.5 * seconds[len(text) // 2]

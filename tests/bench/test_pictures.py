"""The pictures of a report: the same each time, legible anywhere, nobody hidden in them."""

import re
import xml.etree.ElementTree as xml

import made_up_cpu
import pytest

pytest.importorskip("matplotlib")
pytestmark = pytest.mark.skipif(not made_up_cpu.WRITTEN, reason="no results")


def test_pictures(tmp_path):
    """Small, well-formed, and the same each time."""
    from bench.report import pictures

    for folder in "ab":
        pictures.draw(made_up_cpu.results(), tmp_path / folder)
    drawn = sorted((tmp_path / "a").glob("*.svg"))
    assert [path.name for path in drawn] == ["batch.svg", "history.svg", "share.svg", "vocabulary.svg"]
    for path in drawn:
        assert path.read_bytes() == (tmp_path / "b" / path.name).read_bytes()
        assert path.stat().st_size < 80_000
        xml.parse(path)


def contrast(one: str, other: str) -> float:
    """Of two colours, by the Web Content Accessibility Guidelines 2.1: 1 to 21."""

    def luminance(colour: str) -> float:
        parts = [int(colour[at : at + 2], 16) / 255 for at in (1, 3, 5)]
        parts = [part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts]
        return 0.2126 * parts[0] + 0.7152 * parts[1] + 0.0722 * parts[2]

    dark, light = sorted(map(luminance, (one, other)))
    return (light + 0.05) / (dark + 0.05)


def test_pictures_are_read_alone_and_on_any_page(tmp_path):
    """They say on what they were measured, and bring a page of their own for their colours to stand on."""
    from bench.report import gpu_pictures, pictures

    assert contrast("#ffffff", "#000000") == 21
    assert contrast(pictures.TEXT, pictures.PAGE) > 4.5
    for looks in (pictures.LOOKS, gpu_pictures.LOOKS):
        assert all(contrast(look.colour, pictures.PAGE) > 3 for look in looks.values())
    here = made_up_cpu.results()["machine"]
    for path, _ in pictures.draw(made_up_cpu.results(), tmp_path):
        svg = path.read_text()
        first = re.search(r'<path d="M 0 [^"]*"\s+style="([^"]*)"', svg)
        assert f"fill: {pictures.PAGE}" in first[1]
        texts = re.findall(r"<!-- (.*?) -->", svg, re.DOTALL)  # of matplotlib, before the letters of each
        assert any(here["cpu"] in text and here["isa"] in text and here["date"][:10] in text for text in texts)
        assert any("one thread" in text for text in texts) or path.name == "share.svg"


def test_legends_go_down_as_the_lines_do(tmp_path):
    """In the picture of batches, where some are measured up to 32 rows and others up to 512."""
    from bench.report import pictures

    rows = {
        row["batch"]: row["times"]
        for measured in made_up_cpu.results()["results"]
        for row in measured["rows"]
        if re.fullmatch(r"topk-topp B=\d+ V=128256 threads=1", row["point"]) and measured["group"] == "Sizes"
    }
    assert "torch" in rows[32] and "torch" not in rows[512] and "torch-topk" in rows[512]
    names = sorted(pictures.LOOKS, key=lambda name: -rows[32][name]["median"])
    pictures.draw(made_up_cpu.results(), tmp_path)
    texts = re.findall(r"<!-- (.*?) -->", (tmp_path / "batch.svg").read_text(), re.DOTALL)
    labels = [look.label for look in pictures.LOOKS.values()]
    assert [text for text in texts if text in labels] == [pictures.LOOKS[name].label for name in names]


def drawn(rows: list[dict], x: str) -> list:
    """The lines of one panel."""
    from matplotlib.figure import Figure

    from bench.report import pictures

    place = Figure().subplots()
    pictures.panel(place, rows, x, 1.0, pictures.LOOKS)
    return place.lines


def row(x: str, value: int, **medians: float) -> dict:
    return {x: value, "times": {name: {"median": us, "p5": us, "p95": us} for name, us in medians.items()}}


def test_equal_lines_do_not_hide_one_another():
    """Whoever lies below is broader than those above, or they are dashed."""
    same = {"torch": 50.0, "torch-compile": 50.0, "transformers": 50.0}
    lines = drawn([row("vocab", v, read=1.0, **same) for v in (10, 100)], "vocab")
    lines = sorted((line for line in lines if len({*line.get_ydata()} & {50.0})), key=lambda line: line.get_zorder())
    assert len(lines) == 3
    for below, above in zip(lines, lines[1:]):
        assert below.get_linewidth() > 2 * above.get_linewidth() or above.is_dashed()
        assert below.get_markersize() > above.get_markersize()


def test_nothing_leads_from_no_history_to_some():
    """Zero has no place on a logarithmic axis: it stands apart, in its own order and beyond a break."""
    lines = drawn([row("history", n, read=1.0, step=5.0 + n) for n in (0, 512, 4096)], "history")
    spans = sorted((min(line.get_xdata()), max(line.get_xdata())) for line in lines if line.get_linewidth() < 3)
    apart = [span for span in spans if span[1] < 512]
    assert [span for span in spans if span[0] >= 512] == [(512, 4096)] * 2 and len(apart) == len(spans) - 2
    assert sum(5.0 in line.get_ydata() for line in lines) == 1


def test_everybody_has_a_look():
    from bench.cpu import contenders
    from bench.report import pictures, tables

    assert pictures.LOOKS.keys() == contenders.REGISTRY.keys() - {"read", "kernel"}
    assert set(tables.PEERS) == contenders.REGISTRY.keys() - {"step", "read", "kernel", "sample"}

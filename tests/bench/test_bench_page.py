"""The page, in a real browser: nothing on the console, every plot there, and every number the JSON's."""

from __future__ import annotations

import json
import re
import struct
import zlib
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest

from jina_sm.bench import page, published, report
from jina_sm.bench.metrics import Setting
from jina_sm.bench.runs import Measured
from tests.bench import browser
from tests.bench.made import SETTINGS, measured

SECTIONS = ("summary", "latency", "success", "throughput", "cost", "split", "figures", "notes")


class Marks(HTMLParser):
    """Every element with a data-key, its value, and the text beneath it."""

    def __init__(self) -> None:
        super().__init__()
        self.found: list[tuple[str, str, str, str]] = []
        self.tags: list[str] = []
        self.attributes: list[tuple[str, dict[str, str | None]]] = []
        self._open: list[tuple[str, str, str]] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        known = dict(attrs)
        self.attributes.append((tag, known))
        if key := known.get("data-key"):
            self.found.append((tag, key, known.get("data-value") or "", ""))

    def handle_data(self, data: str) -> None:
        if self.found and not self.found[-1][3] and data.strip():
            self.found[-1] = (*self.found[-1][:3], data.strip())


def parsed(dom: str) -> Marks:
    marks = Marks()
    marks.feed(dom)
    return marks


def looked_up(told: Any, key: str) -> Any:
    for part in key.split("."):
        told = told[int(part)] if part.isdecimal() else told[part]
    return told


def two() -> Measured:
    return measured(
        {"one": 0.1, "two & <more>": 0.05},
        kinds={"one": "sagemaker", "two & <more>": "http"},
        fails_every={"one": 7},
        told=True,
        repetitions=3,
    )


def written(tmp_path: Path, run: Measured, name: str = "page.html") -> Path:
    file = tmp_path / name
    file.write_text(page.page(run), encoding="utf-8")
    return file


@browser.needed
def test_the_console_is_listened_to(tmp_path: Path) -> None:
    """A page that does complain is heard, so silence means something."""
    (tmp_path / "bad.html").write_text("<script>console.error('heard')</script>", encoding="utf-8")
    _, said = browser.opened(tmp_path / "bad.html")
    assert any("heard" in line for line in said)


@browser.needed
def test_in_a_browser_every_number_is_the_jsons_and_nothing_is_on_the_console(tmp_path: Path) -> None:
    run = two()
    dom, said = browser.opened(written(tmp_path, run))
    assert said == []
    marks, told = parsed(dom), json.loads(report.encoded(run))
    assert len(marks.found) > 10 * len(run.cells)
    for tag, key, value, text in marks.found:
        assert float(value) == pytest.approx(looked_up(told, key), rel=1e-12), (tag, key)
        if tag == "td" and re.fullmatch(r"[\d.,]+( %)?", text):
            shown = float(text.replace(",", "").removesuffix(" %")) / (100 if text.endswith("%") else 1)
            assert shown == pytest.approx(float(value), rel=0.01, abs=0.0006), (key, text)


@browser.needed
def test_in_a_browser_every_plot_is_there_and_has_a_size(tmp_path: Path) -> None:
    run = two()
    shapes = {each.shape for each in run.settings}
    dom = measured_in_frame(tmp_path, page.page(run), 1100)
    sizes = {key: tuple(map(float, value.split("x"))) for key, value in dom.items() if key != "overflow"}
    assert {key for key in sizes if not key[0].isdigit()} == set(SECTIONS)
    plots = {key: size for key, size in sizes.items() if key[0].isdigit()}
    # A panel a shape, a heat map a target, and bars of throughput, of cost and of where the time went.
    assert len(plots) == len(shapes) + len(run.targets) + 3
    assert all(width > 100 and height > 50 for width, height in sizes.values()), sizes


@browser.needed
@pytest.mark.parametrize("width", [360, 390, 768, 1280])
def test_in_a_browser_nothing_sticks_out_of_a_screen(tmp_path: Path, width: int) -> None:
    assert measured_in_frame(tmp_path, page.page(two()), width)["overflow"] == "0"
    assert measured_in_frame(tmp_path, page.published_page(), width)["overflow"] == "0"


def measured_in_frame(tmp_path: Path, html: str, width: int) -> dict[str, str]:
    """The sizes of all sections and figures of a page on a screen of that width, and what is wider than it."""
    script = """<script>addEventListener("load", () => {
      const size = each => { const box = each.getBoundingClientRect(); return box.width + "x" + box.height };
      const told = {overflow: String(document.documentElement.scrollWidth - document.documentElement.clientWidth)};
      document.querySelectorAll("section").forEach(each => told[each.id] = size(each));
      document.querySelectorAll("figure").forEach((each, place) => told[place] = size(each));
      parent.postMessage(told, "*");
    })</script>"""
    html = re.sub(r"<meta http-equiv[^>]*>", "", html)  # it forbids the script that looks at it
    (tmp_path / "framed.html").write_text(html.replace("</body>", script + "</body>"), encoding="utf-8")
    (tmp_path / "frame.html").write_text(
        f"""<iframe src="framed.html" style="width:{width}px;height:900px;border:0"></iframe><pre id="told"></pre>
        <script>addEventListener("message", e => told.textContent = JSON.stringify(e.data))</script>""",
        encoding="utf-8",
    )
    dom, _ = browser.opened(tmp_path / "frame.html", "--window-size=1400,1000", "--virtual-time-budget=5000")
    (said,) = re.findall(r'<pre id="told">(.*?)</pre>', dom)
    found: dict[str, str] = json.loads(said)
    return found


@browser.needed
def test_in_a_browser_dark_is_dark_and_light_is_light(tmp_path: Path) -> None:
    file = written(tmp_path, two())
    for dark in (False, True):
        browser.picture(file, tmp_path / "p.png", width=500, height=400, dark=dark)
        assert (brightness(tmp_path / "p.png") < 80) == dark


def brightness(png: Path) -> float:
    """The mean of the picture's first rows, 0 to 255."""
    data, at, packed = png.read_bytes(), 8, b""
    while at < len(data):
        length, kind = struct.unpack(">I4s", data[at : at + 8])
        if kind == b"IHDR":
            width, _, _, colour = struct.unpack(">IIBB", data[at + 8 : at + 18])
        if kind == b"IDAT":
            packed += data[at + 8 : at + 8 + length]
        at += length + 12
    row = zlib.decompress(packed)[1 : 1 + width * {2: 3, 6: 4}[colour]]
    # Only the first row's first pixel is not a difference to another, whatever the filter.
    return sum(row[:3]) / 3


def test_a_page_needs_no_network_and_no_script(tmp_path: Path) -> None:
    for html in (page.page(two()), page.published_page()):
        marks = parsed(html)
        assert "script" not in marks.tags
        assert not [
            each
            for _, known in marks.attributes
            for name in ("src", "href", "srcset", "data", "action")
            if (each := known.get(name)) and not each.startswith("data:")
        ]
        assert "url(" not in html
        assert "@import" not in html


def test_names_of_targets_are_text_and_never_markup() -> None:
    html = page.page(measured({"<script>alert(1)</script>": 0.1, '"><img src=x>': 0.1}))
    assert {"script", "img"}.isdisjoint(parsed(html).tags)
    assert "&lt;script&gt;alert(1)" in html


def test_plots_have_titles_and_tables_have_headings() -> None:
    for html in (page.page(two()), page.published_page()):
        marks = parsed(html)
        ids = {known["id"] for _, known in marks.attributes if known.get("id")}
        for tag, known in marks.attributes:
            if tag == "svg" and known.get("aria-hidden") != "true":
                assert known.get("role") == "img"
                assert set((known.get("aria-labelledby") or "").split()) <= ids
            if tag == "section":
                assert known.get("aria-labelledby") in ids
            if tag == "th":
                assert known.get("scope") in ("col", "row", "rowgroup")
        assert '<html lang="en">' in html


def test_the_published_figures_stand_beside() -> None:
    html = page.page(two())
    assert "published SageMaker" in html
    assert "published Self-hosted" in html
    assert html.count('class="line reference"') >= 1
    assert published.figures()["date"] in html


def test_where_no_server_tells_nothing_is_drawn_of_it() -> None:
    html = page.page(measured({"one": 0.1}))
    assert "a Server-Timing header would" in html
    assert 'class="bar stacked"' not in html


def test_a_run_that_is_not_whole_says_so() -> None:
    html = page.page(measured({"one": 0.1}, ended="interrupted", changes={"given_up": "no key"}))
    assert "Not complete: interrupted" in html
    assert "given up: no key" in html


def test_a_target_of_which_nothing_was_measured_is_named_all_the_same() -> None:
    run = measured({"one": 0.1, "none": 0.1})
    run = replace(run, samples=tuple(each for each in run.samples if each.target == "one"))
    assert run.summaries[1].success_rate is None
    assert "none" in page.page(run)
    lines: list[str] = []
    report.table(run, lines.append)
    assert any(line.split()[:3] == ["none", "-", "-"] for line in lines)


def test_a_run_without_a_single_answer_is_still_a_page() -> None:
    html = page.page(measured({"one": 0.1}, fails_every={"one": 1}))
    assert "0.0 %" in html


@pytest.mark.parametrize(
    "setting",
    [
        Setting(batch_size=1, texts="uniform:16-512", arrivals="poisson", rate=5.0),
        Setting(texts="w.jsonl", arrivals="trace"),
        Setting(batch_size=3, passage_tokens=99, arrivals="ramp", rate=1.0, rate_to=9.0),
    ],
)
def test_open_loops_are_drawn_too(setting: Setting) -> None:
    closed = measured({"one": 0.1}, settings=SETTINGS[:1])
    run = Measured(**{**closed.__dict__, "settings": (setting,)})
    html = page.page(run)
    assert setting.offered in html
    assert "requests a second" in html

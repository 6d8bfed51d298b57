"""The quick start's report: self-contained, well-formed, escaped, and true to what it was given."""

from __future__ import annotations

import base64
import json
import re
from dataclasses import replace
from html import unescape
from html.parser import HTMLParser

import cv2
import numpy as np
import pytest

from sonodistill_training.quickstart.charts import line_chart, log_ticks, ticks
from sonodistill_training.quickstart.report import Cine, Curve, Picture, Report, Source, Stage, write_report
from sonodistill_training.report.drawing import FOUND_RGB, TRUTH_RGB, outlined

VOID = {"meta", "img", "br", "input", "link", "hr"}
EVIL = "<script>alert('x')</script>\"&"


def disc(shape=(48, 64), centre=(32, 24), radius=10) -> np.ndarray:
    return cv2.circle(np.zeros(shape, np.uint8), centre, radius, 1, -1) > 0


def report_of(**changes) -> Report:
    image = np.random.default_rng(0).integers(0, 256, (48, 64), dtype=np.uint8)
    cine = Cine(
        "Cine A", [image] * 5, [disc(centre=(20 + 5 * i, 24)) for i in range(5)], [0, 40, 80, 120, 160], "moves"
    )
    whole = Report(
        title="A quick start",
        summary=[("Student", "resnet18"), ("Dice", "0.873")],
        sources=[
            Source("examples", "real", 33, "MIT", "distilled on"),
            Source("simulator", "simulated", 121, "Apache-2.0", "segmenter"),
        ],
        stages=[Stage("distil", 321.25, "120 steps"), Stage("simulate", 8.5, "121 frames")],
        curves=[
            Curve("Loss", [1, 2, 3, 4], [6.125, 4.5, 3.25, 2.875], "per step", log=True),
            Curve("Dice", [1, 2], [0.4375, 0.8125], "per epoch"),
        ],
        pictures=[
            Picture("With lesion", image, disc(), disc(centre=(34, 24)), "a test frame"),
            Picture("Without", image, np.zeros_like(disc()), np.zeros_like(disc()), "another"),
            Picture("Unlabelled", image, disc(), None, "a third"),
        ],
        cine=cine,
        facts=["The pixel size is unknown."],
        versions={"torch": "2.99.1", "machine": "17 threads"},
    )
    return replace(whole, **changes)


def written(tmp_path, **changes) -> str:
    path = write_report(tmp_path / "report.html", report_of(**changes))
    assert path == tmp_path / "report.html"
    return path.read_text(encoding="utf-8")


def visible(html: str) -> str:
    """The page's text without styles, scripts and tags."""
    return unescape(re.sub(r"<[^>]*>", " ", re.sub(r"<(style|script).*?</\1>", " ", html, flags=re.S)))


class Balanced(HTMLParser):
    """Collects tags; every opened element must be closed in order."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.attributes: list[tuple[str, str, str]] = []
        self.ids: list[str] = []

    def handle_starttag(self, tag, attrs):
        self.attributes += [(tag, name, value or "") for name, value in attrs]
        self.ids += [value for name, value in attrs if name == "id"]
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.attributes += [(tag, name, value or "") for name, value in attrs]

    def handle_endtag(self, tag):
        assert self.open, f"</{tag}> closes nothing"
        assert self.open.pop() == tag


def parsed(html: str) -> Balanced:
    parser = Balanced()
    parser.feed(html)
    parser.close()
    return parser


def cine_data(html: str) -> dict:
    return json.loads(re.search(r'<script type="application/json" id="cine-data">(.*?)</script>', html, re.S).group(1))


def decoded(uri: str) -> np.ndarray:
    """RGB pixels of a data URI."""
    data = np.frombuffer(base64.b64decode(uri.split(",", 1)[1]), np.uint8)
    return cv2.cvtColor(cv2.imdecode(data, cv2.IMREAD_COLOR), cv2.COLOR_BGR2RGB)


def test_nothing_is_loaded_from_elsewhere(tmp_path):
    html = written(tmp_path)
    assert "http://" not in html
    assert "https://" not in html
    assert "@import" not in html
    assert "url(" not in html
    for tag, name, value in parsed(html).attributes:
        if name in ("src", "href", "srcset", "data", "action"):
            assert value.startswith("data:image/"), (tag, name, value[:40])
    assert "default-src 'none'" in html


def test_tags_are_balanced_and_ids_unique(tmp_path):
    parser = parsed(written(tmp_path))
    assert parser.open == []
    assert len(parser.ids) == len(set(parser.ids)) > 0


def test_every_figure_given_is_on_the_page(tmp_path):
    text = visible(written(tmp_path))
    curves = [v for curve in report_of().curves for v in (*curve.x, *curve.y)]
    for value in (*curves, 0.873, 33, 121, 321.25, 8.5, 329.75):
        assert f"{value:g}" in text, value
    for word in ("resnet18", "2.99.1", "17 threads", "120 steps", "MIT", "Apache-2.0", "The pixel size is unknown."):
        assert word in text
    assert "5 frames of 64 x 48 pixels over 160 ms" in text


def test_real_and_simulated_are_told_apart(tmp_path):
    html = written(tmp_path)
    rows = re.findall(r"<tr><td><span class=\"badge (\w+)\">(\w+)</span></td><td>(\w+)</td>", html)
    assert rows == [("real", "real", "examples"), ("simulated", "simulated", "simulator")]
    with pytest.raises(ValueError, match="not one of"):
        Source("x", "synthetic", 1, "", "")


def test_it_says_what_it_is_not(tmp_path):
    text = visible(written(tmp_path))
    assert "Research use only" in text
    assert "is not a diagnosis" in re.sub(r"\s+", " ", text)


def test_markup_in_any_text_is_escaped(tmp_path):
    image = np.zeros((48, 64), np.uint8)
    html = written(
        tmp_path,
        title=EVIL,
        summary=[(EVIL, EVIL)],
        sources=[Source(EVIL, "real", 1, EVIL, EVIL)],
        stages=[Stage(EVIL, 1.0, EVIL)],
        curves=[Curve(EVIL, [1, 2], [3, 4], EVIL)],
        pictures=[Picture(EVIL, image, None, None, EVIL)],
        cine=Cine(EVIL, [image], [disc()], [0.0], EVIL),
        facts=[EVIL],
        versions={EVIL: EVIL},
        command=EVIL,
    )
    assert "<script>alert" not in html
    assert html.count("&lt;script&gt;alert") >= 17
    parser = parsed(html)
    assert parser.open == []
    assert ("img", "alt", EVIL) in parser.attributes


def test_cine_frames_decode_to_the_frames_given(tmp_path):
    html, cine = written(tmp_path), report_of().cine
    data = cine_data(html)
    assert len(data["frames"]) == len(data["times"]) == 5
    assert data["times"] == [0, 40, 80, 120, 160]
    for uri, image, mask in zip(data["frames"], cine.frames, cine.masks, strict=True):
        pixels = decoded(uri)
        assert pixels.shape == (48, 64, 3)
        assert np.abs(pixels.astype(int) - outlined(image, mask)).mean() < 12  # JPEG of noise


def test_first_cine_frame_is_there_without_a_script(tmp_path):
    html = written(tmp_path)
    attributes = parsed(html).attributes
    source = next(value for _, name, value in attributes if name == "src" and value.startswith("data:image/jpeg"))
    assert source == cine_data(html)["frames"][0]
    assert re.search(r'<div class="controls" id="cine-controls" hidden>', html)


def test_times_start_at_zero(tmp_path):
    late = replace(report_of().cine, time_ms=[500.0, 530.0, 560.0, 590.0, 620.0])
    assert cine_data(written(tmp_path, cine=late))["times"] == [0, 30, 60, 90, 120]


def test_outline_is_drawn_on_the_border_of_the_mask():
    image, mask, truth = np.full((48, 64), 100, np.uint8), disc(), disc(centre=(12, 12), radius=6)
    picture = outlined(image, mask, truth)
    inner = cv2.erode(mask.astype(np.uint8), cv2.getStructuringElement(cv2.MORPH_CROSS, (3, 3))) > 0
    border = mask & ~inner
    assert (picture[border] == FOUND_RGB).all()
    assert (picture[truth].reshape(-1, 3) == TRUTH_RGB).all(axis=1).any()
    assert (picture[~mask & ~truth] == 100).all()
    assert not (picture[inner] == FOUND_RGB).all(axis=1).any()


def test_embedded_picture_carries_the_outline_losslessly(tmp_path):
    given = report_of().pictures[0]
    attributes = parsed(written(tmp_path)).attributes
    uri = next(value for _, name, value in attributes if name == "src" and value.startswith("data:image/png"))
    assert np.array_equal(decoded(uri), outlined(given.image, given.overlay, given.truth))


def test_dice_of_a_picture_is_stated(tmp_path):
    a, b = disc(), disc(centre=(34, 24))
    text = visible(written(tmp_path))
    assert f"Dice {2 * (a & b).sum() / (a.sum() + b.sum()):.3f}" in text
    assert "nothing there, and nothing found" in text


def test_sections_without_content_are_left_out(tmp_path):
    html = written(tmp_path, cine=None, pictures=[], curves=[], stages=[], facts=[])
    assert parsed(html).open == []
    for heading in ("Cine", "Frames", "Training", "Time"):
        assert f"<h2>{heading}</h2>" not in html
    assert "<h2>Real or simulated</h2>" in html


def test_light_dark_print_and_small_screens_are_provided_for(tmp_path):
    html = written(tmp_path)
    for needed in ("prefers-color-scheme: dark", "@media print", "max-width: 560px", "prefers-reduced-motion"):
        assert needed in html


@pytest.mark.parametrize(
    "make",
    [
        lambda: Curve("c", [1.0], [], "s"),
        lambda: Picture("p", np.zeros((4, 4), np.uint8), np.zeros((4, 5), bool), None, ""),
        lambda: Cine("c", [], [], [], ""),
    ],
    ids=["curve", "picture", "cine"],
)
def test_parts_that_do_not_fit_together_are_refused(make):
    with pytest.raises(ValueError):
        make()


# charts


@pytest.mark.parametrize("interval", [(0, 1), (1, 120), (0.2613, 0.2619), (-3, 8), (1e-6, 3e-6), (1e5, 9e6)])
def test_ticks_are_round_and_inside(interval):
    low, high = interval
    found = ticks(low, high)
    assert 2 <= len(found) <= 6
    assert all(low - 1e-9 * abs(low) <= tick <= high * (1 + 1e-9) for tick in found)
    assert len({f"{step:.3g}" for step in np.diff(found)}) == 1


def test_log_ticks_cover_decades_and_narrow_ranges():
    assert log_ticks(0.01, 100) == pytest.approx([0.01, 0.1, 1, 10, 100])
    assert len(log_ticks(1.6, 6.5)) >= 3
    assert len(log_ticks(2.01, 2.05)) >= 2


def test_curve_points_are_where_the_axes_say():
    svg = line_chart([0, 10], [1, 100], label="l", x_label="x", log=True)
    (x0, y0), (x1, y1) = re.findall(r'<circle class="dot" cx="([\d.]+)" cy="([\d.]+)"', svg)
    assert float(x0) < float(x1)
    assert float(y0) > float(y1)
    tick_10 = float(re.search(r'y="([\d.]+)" text-anchor="end">10<', svg).group(1)) - 4
    assert tick_10 == pytest.approx((float(y0) + float(y1)) / 2, abs=0.2)


def test_gaps_and_constants_do_not_break_a_chart():
    nan = float("nan")
    svg = line_chart([1, 2, 3, 4], [1.0, nan, 2.0, 2.5], label="l", x_label="x")
    assert re.search(r'class="curve" d="M[\d. ]+M[\d. ]+L[\d. ]+"', svg)
    assert "nan" not in svg
    assert "<circle" in line_chart([5], [0.25], label="l", x_label="x")
    assert "<circle" in line_chart([1, 2], [3, 3], label="l", x_label="x")
    assert "No finite value" in line_chart([1, 2], [nan, float("inf")], label="l", x_label="x")
    assert "No finite value" in line_chart([1], [-1], label="l", x_label="x", log=True)

"""The report of an evaluation: complete in itself, true to the store, and the right images in its gallery."""

from __future__ import annotations

import base64
import csv
import json
import re
import shutil
import subprocess
from collections.abc import Sequence
from dataclasses import replace
from html import unescape
from html.parser import HTMLParser
from pathlib import Path

import cv2
import numpy as np
import pyarrow.parquet as pq
import pytest

from sonodistill.errors import BundleConfigError, DatasetError, UnreadableFileError
from sonodistill_training.evaluate.data import LabelledSet
from sonodistill_training.evaluate.learning.recipes import recipe
from sonodistill_training.evaluate.metrics.segmentation import score
from sonodistill_training.evaluate.report.gallery import choose
from sonodistill_training.evaluate.report.write import write_report
from sonodistill_training.evaluate.results import Cell, Result, Store

_CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
_QUIET = "--headless --no-sandbox --disable-gpu --disable-quic --no-first-run --hide-scrollbars --mute-audio"
_OFFLINE = "--disable-background-networking --disable-component-update --disable-sync --disable-default-apps"

RANDOM, DISTILLED = "R18-Rand", "R18-Distill-US"
SHIFT = {RANDOM: 3, DISTILLED: 1}  # pixels between truth and prediction
NORMALS, FRAMES, SHAPE = 4, 24, (72, 96)
FALSE_POSITIVE, MISSED, WORST, UNMISSED = 1, 5, 17, 2
HOSTILE = "<img src=x onerror=alert(1)>\"'&.png"
VOID = {"meta", "img", "br", "input", "link", "hr", "image", "path", "use", "line", "circle"}


def name(row: int) -> str:
    return HOSTILE if row == MISSED else f"frame{row:02d}.png"


def disc(row: int, shift: int = 0) -> np.ndarray:
    """The lesion of a frame: none of the first, then larger and larger ones."""
    empty = np.zeros(SHAPE, np.uint8)
    return (cv2.circle(empty, (40 + shift, 36), row, 1, -1) if row >= NORMALS else empty) > 0


def predicted(encoder: str, row: int) -> np.ndarray:
    """The truth moved to the side, but for the failures that are planted in the random encoder's predictions."""
    if encoder == RANDOM and row == FALSE_POSITIVE:
        return disc(9)
    if encoder == RANDOM and row == MISSED:
        return np.zeros(SHAPE, bool)
    return disc(row, 26 if encoder == RANDOM and row == WORST else SHIFT[encoder])


def frames(data: str = "busi", size: int = 64) -> LabelledSet:
    rng = np.random.default_rng(0)
    images = np.stack([cv2.resize(rng.integers(40, 200, (9, 9), dtype=np.uint8), (size, size)) for _ in range(FRAMES)])
    names = tuple(map(name, range(FRAMES)))
    truths = tuple(np.packbits(disc(row)) for row in range(FRAMES))
    plain = ("",) * FRAMES
    shapes, spacing = np.array([SHAPE] * FRAMES), np.full((FRAMES, 2), np.nan)
    return LabelledSet(data, names, names, plain, plain, images[:, None], shapes, truths, spacing, "0" * 64)


def cell(encoder: str = RANDOM, task: str = "segmentation", **changes) -> Cell:
    head = "linear" if task == "classification" else "unet"
    made = recipe("paper", task, epochs=4)
    return replace(Cell(encoder, "random:resnet18", task, "busi", "b" * 64, "finetune", head, made), **changes)


def segmented(encoder: str) -> tuple[dict[str, list], list[np.ndarray]]:
    masks = [predicted(encoder, row) for row in range(FRAMES)]
    scores = [score(mask, disc(row)) for row, mask in enumerate(masks)]
    columns = {"image": [name(row) for row in range(FRAMES)], "group": [f"case{row}" for row in range(FRAMES)]}
    columns |= {"label": [""] * FRAMES, "lesion": [one.truth_pixels > 0 for one in scores]}
    for key in ("dice", "iou", "hd95_px", "hd95_mm", "predicted_pixels", "truth_pixels", "pixels"):
        columns[key] = [getattr(one, key) for one in scores]
    return columns, masks


def classified(classes: Sequence[str] = ("benign", "malignant")) -> dict[str, list]:
    right = np.random.default_rng(1).uniform(0.3, 0.9, FRAMES)
    columns = {"image": [name(row) for row in range(FRAMES)], "group": [f"case{row}" for row in range(FRAMES)]}
    truth = [classes[row % 2] for row in range(FRAMES)]
    columns |= {"truth": truth, "predicted": [classes[(row + (right[row] < 0.5)) % 2] for row in range(FRAMES)]}
    for number, label in enumerate(classes):
        columns[f"probability_{label}"] = [p if row % 2 == number else 1 - p for row, p in enumerate(right.tolist())]
    return columns


def keep(store: Store, of: Cell) -> Result:
    curve = [{"epoch": e, "loss": 1 / e + of.seed, "validation": 0.5 + e / 10 + of.seed / 50} for e in range(1, 5)]
    about = {
        "summary": {},
        "curve": curve,
        "frames": {"train": 40, "validation": 8, "test": FRAMES},
        "split": "seed 3",
        "device": "cpu",
        "bf16": True,
        "code_version": "c0de" * 10,
        "software": {"torch": "2.99.1"},
        "calibrated": 0,
        "best_epoch": 3,
    }
    if of.task == "segmentation":
        return store.write(of, *(lambda columns, masks: (columns, about, masks))(*segmented(of.encoder)))
    return store.write(of, classified(), about)


def full_store(folder: Path) -> Store:
    """Two encoders, two tasks, two seeds, and one encoder with a tenth of the labels."""
    store = Store(folder)
    for encoder in SHIFT:
        for seed in range(2):
            keep(store, cell(encoder, seed=seed))
            keep(store, cell(encoder, "classification", seed=seed))
    keep(store, cell(DISTILLED, fraction=0.1))
    return store


@pytest.fixture(scope="module")
def store(tmp_path_factory) -> Store:
    return full_store(tmp_path_factory.mktemp("store"))


@pytest.fixture(scope="module")
def written(store, tmp_path_factory) -> Path:
    """The folder of a report of everything but the papers' tables."""
    out = tmp_path_factory.mktemp("report")
    write_report(store, out, data={"busi": frames()}, papers=False)
    return out


@pytest.fixture(scope="module")
def html(written) -> str:
    return (written / "report.html").read_text(encoding="utf-8")


@pytest.fixture(scope="module")
def classification_alone(tmp_path_factory) -> str:
    """The page of a single classifier, with the papers' tables."""
    small = Store(tmp_path_factory.mktemp("classifiers"))
    keep(small, cell(DISTILLED, "classification"))
    return write_report(small, small.folder).read_text(encoding="utf-8")


def visible(page: str) -> str:
    text = re.sub(r"<[^>]*>", " ", re.sub(r"<(style|script).*?</\1>", " ", page, flags=re.S))
    return re.sub(r"\s+", " ", unescape(text))


def example(page: str, image: str) -> str:
    """The card of an image in the gallery."""
    from html import escape

    start = page.index(f"<p><strong>{escape(image)}</strong>")
    return page[start:].partition("</div></div>")[0]


def kind(page: str, title: str) -> str:
    """A kind's part of the gallery."""
    return re.split(r"<h[234][ >]", page.partition(f">{title}</h4>")[2])[0]


class Balanced(HTMLParser):
    """Every opened element must be closed in order."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.attributes: list[tuple[str, str, str]] = []

    def handle_starttag(self, tag, attrs):
        self.attributes += [(tag, key, value or "") for key, value in attrs]
        if tag not in VOID or tag == "path":
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.attributes += [(tag, key, value or "") for key, value in attrs]

    def handle_endtag(self, tag):
        assert self.open.pop() == tag


def parsed(page: str) -> Balanced:
    parser = Balanced()
    parser.feed(page)
    parser.close()
    return parser


# the page


def test_the_page_shows_every_encoder_split_machine_and_weakness(html) -> None:
    text = visible(html)
    for word in (RANDOM, DISTILLED, "seed 3", "40 / 8 / 24", "2.99.1", "bfloat16", "c0dec0dec0de", "Research use only"):
        assert word in text, word
    few = "Fewer than 5 seeds: BUSI segmentation, fine-tuned (unet), 100 % of the labels"
    assert f"{few}: {DISTILLED} (2), {RANDOM} (2)" in text
    assert "distances are in pixels and not in millimetres" in text
    assert "nothing is known of false positives" not in text  # BUSI has normals


def test_nothing_is_loaded_from_elsewhere(html, classification_alone) -> None:
    for page in (html, classification_alone):
        assert "default-src 'none'" in page
        assert not re.search(r"https?://|url\(|@import", page)
        for tag, key, value in parsed(page).attributes:
            if key in ("src", "href", "srcset", "data", "action"):
                assert value.startswith(("data:image/", "#")), (tag, key, value[:40])


def test_tags_are_balanced_ids_unique_and_links_lead_somewhere(html, classification_alone) -> None:
    for page in (html, classification_alone):
        parser = parsed(page)
        assert parser.open == []
        ids = [value for _, key, value in parser.attributes if key == "id"]
        assert len(ids) == len(set(ids)) > 5
        assert {value[1:] for _, key, value in parser.attributes if key == "href" and value[0] == "#"} <= set(ids)


def test_every_picture_says_what_it_shows(html) -> None:
    pictures = re.findall(r"<svg [^>]*>", html) + re.findall(r"<img [^>]*>", html)
    assert len(pictures) > 40
    assert all(re.search(r'(aria-label|alt)="[^"]+"', picture) for picture in pictures)


def test_the_papers_tables_come_with_their_errata(classification_alone) -> None:
    text = visible(classification_alone)
    assert "Paper A, Table 3: BUSI classification" in text
    assert "Errata of the papers" in text


def test_without_the_papers_their_tables_are_left_out(html) -> None:
    assert "Paper A, Table" not in html


def test_the_tables_on_the_page_are_those_in_the_file(written, html) -> None:
    with (written / "tables.csv").open(encoding="utf-8", newline="") as file:
        lines = [line for line in csv.DictReader(file) if line["column"] == "dice_empty1"]
    assert len(lines) == 3
    assert all(f"{float(line['estimate']):.3f} [{float(line['low']):.3f}" in html for line in lines)


def test_the_same_store_gives_the_same_bytes(written, store, tmp_path) -> None:
    write_report(store, tmp_path, data={"busi": frames()}, papers=False)
    names = sorted(path.name for path in tmp_path.iterdir())
    assert names == sorted(path.name for path in written.iterdir())
    assert len(names) == 7
    for file in names:
        assert (tmp_path / file).read_bytes() == (written / file).read_bytes(), file


def test_the_commands_name_what_was_evaluated(html) -> None:
    (code,) = re.findall(r"<pre><code>(.*?)</code></pre>", html, flags=re.S)
    words = unescape(code)
    assert "--encoder R18-Distill-US=FILE" not in words  # this store has random weights under that name
    assert "--encoder R18-Rand --data busi=FOLDER --task segmentation --protocol finetune" in words
    assert "--epochs 4 --split seed --split-seed 3" in words
    assert "--fraction 0.1 --fraction 1" in words


def test_an_empty_store_is_refused_by_name(tmp_path) -> None:
    with pytest.raises(DatasetError, match="no finished evaluation"):
        write_report(Store(tmp_path), tmp_path)


def test_a_file_as_folder_is_refused(store, tmp_path) -> None:
    (tmp_path / "report.html").touch()
    with pytest.raises(BundleConfigError, match="is a file"):
        write_report(store, tmp_path / "report.html")


def test_a_store_with_classification_alone_has_a_report(classification_alone) -> None:
    text = visible(classification_alone)
    assert "Macro F1" in text and DISTILLED in text
    assert "No segmentation is among the results" in text
    assert "No two encoders were evaluated under the same conditions" in text


@pytest.mark.skipif(_CHROMIUM is None, reason="no Chromium or Chrome is installed")
def test_a_browser_opens_it_without_an_error_and_draws_frames_and_outlines(written, tmp_path) -> None:
    shot = tmp_path / "shot.png"
    options = [*_QUIET.split(), *_OFFLINE.split(), f"--user-data-dir={tmp_path / 'profile'}", "--window-size=1200,9000"]
    command = [
        _CHROMIUM,
        *options,
        "--enable-logging=stderr",
        f"--screenshot={shot}",
        (written / "report.html").as_uri(),
    ]
    done = subprocess.run(command, capture_output=True, timeout=120, check=True)
    assert b"CONSOLE" not in done.stderr
    image = cv2.imread(str(shot))[..., ::-1].astype(int)
    assert image.shape[:2] == (9000, 1200)
    for colour in ((64, 200, 255), (255, 176, 0)):  # truth and prediction
        assert (np.abs(image - colour).max(axis=2) < 24).sum() > 300
    # Frames are drawn once and referred to afterwards: each column of a card has gray of many levels.
    gray = (np.ptp(image, axis=2) < 6) & (image[..., 0] > 50) & (image[..., 0] < 190)
    columns = [gray[:, start : start + 180].sum() for start in (110, 360, 600, 850)]
    assert min(columns) > 50_000


# the gallery


def test_the_planted_failures_are_shown_under_their_kinds(html) -> None:
    assert unescape(kind(html, "Missed small lesions")).count(f"<strong>{HOSTILE}</strong>") == 1
    first = re.search(r"<p><strong>([^<]+)</strong>", kind(html, "Worst cases"))
    assert first and first.group(1) == name(WORST)
    false = re.findall(r"<p><strong>([^<]+)</strong>", kind(html, "False positives on normals"))
    assert false == [name(FALSE_POSITIVE)]


def test_missed_lesions_come_smallest_first_and_false_positives_largest_first(tmp_path) -> None:
    columns, masks = segmented(DISTILLED)
    for row in (20, 9, 14):
        masks[row] = np.zeros(SHAPE, bool)
    for row, radius in ((0, 5), (2, 11), (3, 8)):
        masks[row] = disc(radius)
    scores = [score(mask, disc(row)) for row, mask in enumerate(masks)]
    for key in ("dice", "iou", "predicted_pixels"):
        columns[key] = [getattr(one, key) for one in scores]
    chosen = choose(Store(tmp_path).write(cell(DISTILLED), columns, {}, masks))
    assert chosen["missed"].images == tuple(map(name, (9, 14, 20)))
    assert chosen["false_positive"].images == tuple(map(name, (2, 3, 0)))


def test_no_image_is_of_two_kinds_and_each_kind_is_bounded(tmp_path) -> None:
    columns, masks = segmented(RANDOM)
    chosen = choose(Store(tmp_path).write(cell(), columns, {}, masks))
    images = [image for choice in chosen.values() for image in choice.images]
    assert len(images) == len(set(images))
    assert max(len(choice.images) for choice in chosen.values()) == 6
    assert chosen["worst"].of == FRAMES - NORMALS - 1


def test_typical_cases_have_the_median_dice(store, tmp_path) -> None:
    columns, masks = segmented(DISTILLED)
    result = Store(tmp_path).write(cell(DISTILLED), columns, {}, masks)
    dice = np.array(columns["dice"])[NORMALS:]
    shown = [columns["dice"][columns["image"].index(image)] for image in choose(result)["typical"].images]
    assert len(shown) == 3
    assert np.abs(np.array(shown) - np.median(dice)).max() <= np.sort(np.abs(dice - np.median(dice)))[2] + 1e-12


def test_encoders_stand_side_by_side_on_the_same_image_with_their_numbers(html) -> None:
    card = visible(example(html, name(WORST)))
    for encoder in SHIFT:
        columns, _ = segmented(encoder)
        dice, iou = (columns[key][WORST] for key in ("dice", "iou"))
        assert f"{encoder} Dice {dice:.3f}, IoU {iou:.3f}; predicted {columns['predicted_pixels'][WORST]:,} px" in card
    assert f"truth {int(disc(WORST).sum()):,} px" in card
    assert "Input 96 x 72 pixels" in card
    assert f"Shown for {RANDOM}" in card


def test_a_frame_is_in_the_page_once_at_its_own_aspect_ratio(html) -> None:
    embedded = re.findall(r'<image id="([\w-]+)" href="(data:image/jpeg;base64,[^"]+)" width="96" height="72"/>', html)
    cards = html.count("Input + truth")
    assert 10 < len(embedded) == len({uri for _, uri in embedded}) <= cards
    assert html.count('<use href="#g0-frame-') == 4 * cards - len(embedded)  # four pictures on a card
    pixels = cv2.imdecode(np.frombuffer(base64.b64decode(embedded[0][1].partition(",")[2]), np.uint8), cv2.IMREAD_COLOR)
    assert pixels.shape == (*SHAPE, 3)


def test_the_outline_runs_along_the_border_of_the_mask(html) -> None:
    path = re.findall(r'<path d="([^"]+)" style="stroke: rgb\(64, 200, 255\)', example(html, name(WORST)))[0]
    points = np.array(re.findall(r"([\d.]+) ([\d.]+)", path), float) - 0.5
    outline = np.zeros(SHAPE, np.uint8)
    cv2.polylines(outline, [points.astype(np.int32)], True, 1)
    inner = cv2.erode(disc(WORST).astype(np.uint8), cv2.getStructuringElement(cv2.MORPH_CROSS, (3, 3))) > 0
    assert np.array_equal(outline > 0, disc(WORST) & ~inner)


def test_the_outline_of_noise_keeps_the_page_small(tmp_path) -> None:
    columns, _ = segmented(RANDOM)
    noise = np.random.default_rng(0).random((240, 320)) < 0.5
    truth = np.zeros(noise.shape, bool)
    truth[100:140, 100:140] = True
    found = score(noise, truth)
    one = {key: [values[WORST]] for key, values in columns.items()} | {"lesion": [True], "image": ["noise.png"]}
    one |= {key: [getattr(found, key)] for key in ("dice", "iou", "predicted_pixels", "truth_pixels", "pixels")}
    Store(tmp_path).write(cell(), one, {}, [noise])
    plain = (
        np.zeros((1, 1, 64, 64), np.uint8),
        np.array([noise.shape]),
        (np.packbits(truth),),
        np.full((1, 2), np.nan),
    )
    data = LabelledSet("busi", ("noise.png",), ("case",), ("",), ("",), *plain, "0")
    page = write_report(Store(tmp_path), tmp_path, data={"busi": data}, papers=False).read_text(encoding="utf-8")
    amber = re.findall(r'<path d="([^"]+)" style="stroke: rgb\(255, 176, 0\)', page)
    assert amber and 1000 < max(map(len, amber)) <= 20_000


def test_a_hostile_file_name_is_text_wherever_it_stands(html) -> None:
    assert "<img src=x" not in html
    assert HOSTILE in visible(html)
    labels = [value for _, key, value in parsed(html).attributes if key == "aria-label"]
    assert any(HOSTILE in label for label in labels)


def test_without_frames_the_gallery_says_how_to_get_them(store, tmp_path) -> None:
    page = write_report(store, tmp_path, papers=False).read_text(encoding="utf-8")
    assert "<image" not in page
    assert "The frames of busi are not at hand" in page
    assert "1 of 4" in page and "1 of 20" in page  # what failed is counted all the same


def test_other_frames_than_were_evaluated_are_not_shown(store, tmp_path) -> None:
    other = frames()
    truths = (*other.truths[:WORST], np.packbits(disc(WORST + 1)), *other.truths[WORST + 1 :])
    page = write_report(store, tmp_path, data={"busi": replace(other, truths=truths)}, papers=False)
    assert f"not those that were evaluated ({name(WORST)} is another)" in page.read_text(encoding="utf-8")


def test_lost_masks_are_refused_by_name(tmp_path) -> None:
    lost = keep(Store(tmp_path), cell())
    (lost.folder / "masks.npz").unlink()
    with pytest.raises(UnreadableFileError, match="predicted masks of busi"):
        write_report(Store(tmp_path), tmp_path, data={"busi": frames()}, papers=False)


# the files


@pytest.mark.parametrize("task", ["segmentation", "classification"])
def test_parquet_and_csv_have_a_row_for_each_cell_and_image_as_the_store_has_it(written, store, task) -> None:
    results = [result for result in store.all() if result.cell.task == task]
    table = pq.read_table(written / f"images-{task}.parquet")
    assert len(table) == FRAMES * len(results)
    with (written / f"images-{task}.csv").open(encoding="utf-8", newline="") as file:
        lines = list(csv.DictReader(file))
    assert list(lines[0]) == table.column_names
    metric = "dice" if task == "segmentation" else "probability_benign"
    by_key = {(row["cell"], row["image"]): row for row in table.to_pylist()}
    assert len(by_key) == len(table) == len(lines)
    in_text = {(line["cell"], line["image"]): line for line in lines}
    for result in results:
        for image, value in zip(result.column("image"), result.column(metric), strict=True):
            row = by_key[result.cell.key, image]
            assert row[metric] == value == float(in_text[result.cell.key, image][metric])
            assert (row["encoder"], row["seed"]) == (result.cell.encoder, result.cell.seed)
            assert (row["recipe"], row["fraction"]) == ("paper", result.cell.fraction)


def test_a_distance_that_no_image_has_is_an_empty_column_of_numbers(written) -> None:
    table = pq.read_table(written / "images-segmentation.parquet")
    assert str(table.schema.field("hd95_mm").type) == "double"
    assert table["hd95_mm"].null_count == len(table)


def test_other_classes_are_columns_of_their_own(tmp_path) -> None:
    store = Store(tmp_path)
    store.write(cell(task="classification"), classified(), {})
    store.write(cell(task="classification", data="other"), classified(("cyst", "solid")), {})
    write_report(store, tmp_path, papers=False)
    table = pq.read_table(tmp_path / "images-classification.parquet")
    assert [table[f"probability_{label}"].null_count for label in ("benign", "cyst")] == [FRAMES, FRAMES]


def test_curves_are_kept_as_numbers(written, store) -> None:
    with (written / "curves.csv").open(encoding="utf-8", newline="") as file:
        lines = list(csv.DictReader(file))
    assert len(lines) == sum(len(result.curve) for result in store.all())
    first = store.all()[0]
    mine = [float(line["loss"]) for line in lines if line["cell"] == first.cell.key]
    assert mine == [row["loss"] for row in first.curve]


# the representation


def test_a_representation_analysis_is_shown_with_figure_and_numbers(store, tmp_path) -> None:
    folder = tmp_path / "representation"
    folder.mkdir()
    picture = cv2.imencode(".png", np.full((4, 4, 3), 200, np.uint8))[1].tobytes()
    (folder / "tsne.png").write_bytes(picture)
    table = "# Representation\n\n| Encoder | RankMe |\n| --- | --- |\n| A\\|B <b> | 12.5 |\n\nPurity: a share.\n"
    (folder / "numbers.md").write_text(table, encoding="utf-8")
    numbers = {"files": ["tsne.svg", "tsne.png"], "encoders": {"A|B <b>": {}}}
    (folder / "numbers.json").write_text(json.dumps(numbers), encoding="utf-8")
    page = write_report(store, tmp_path, representation=folder, papers=False).read_text(encoding="utf-8")
    assert base64.b64encode(picture).decode() in page
    assert '<th scope="row">A|B &lt;b&gt;</th><td>12.5</td>' in page
    assert "<p>Purity: a share.</p>" in page


def test_an_unfinished_representation_analysis_is_refused(store, tmp_path) -> None:
    with pytest.raises(DatasetError, match="no finished representation analysis"):
        write_report(store, tmp_path, representation=tmp_path, papers=False)

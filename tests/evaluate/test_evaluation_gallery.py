"""The gallery of the report: the right images, under the right kind."""

from __future__ import annotations

import base64
import re
import sys
from dataclasses import replace
from html import unescape
from pathlib import Path

import cv2
import numpy as np
import pytest

from sonodistill.errors import UnreadableFileError
from sonodistill_training.evaluate.data import LabelledSet
from sonodistill_training.evaluate.metrics.segmentation import score
from sonodistill_training.evaluate.report.gallery import choose
from sonodistill_training.evaluate.report.write import write_report
from sonodistill_training.evaluate.results import Store

sys.path.insert(0, str(Path(__file__).parent))
from report_case import (
    DISTILLED,
    FALSE_POSITIVE,
    FRAMES,
    HOSTILE,
    NORMALS,
    RANDOM,
    SHAPE,
    SHIFT,
    WORST,
    cell,
    disc,
    example,
    frames,
    keep,
    kind,
    name,
    parsed,
    segmented,
    visible,
)


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

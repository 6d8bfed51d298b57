"""Thyroid and neck, on miniatures of the published layouts and on the whole of DDTI where it is."""

from __future__ import annotations

import json
from collections import Counter

import cv2
import numpy as np

import sonodistill.frames as frames
from sonodistill_training.corpus.registry.thyroid import CCAUI, DDTI, SEGTHY


def case(number, marks, tirads="4b"):
    """An XML case as DDTI writes them; ``marks`` are the boxes (left, top, right, bottom) of each image."""
    text = "".join(
        f"<mark><image>{image}</image><svg>{json.dumps([outline(box) for box in boxes])}</svg></mark>"
        for image, boxes in marks.items()
    )
    return f"<case><number>{number}</number><age></age><tirads>{tirads}</tirads>{text}</case>"


def outline(box):
    left, top, right, bottom = box
    corners = ((left, top), (right, top), (right, bottom), (left, bottom))
    return {"points": [{"x": x, "y": y} for x, y in corners], "annotation": {}, "regionType": "freehand"}


def test_miniature_ddti(folder, conforms):
    """Layout: the files under shared/data/raw/ddti; Proc. SPIE 9287, 92870W (2015)."""
    for name in ("1", "1_2", "251_1", "266_1", "266_2", "62"):
        folder.image(f"{name}.jpg")
    folder.text("1.xml", case(1, {1: [(5, 5, 14, 14)], 2: [(5, 5, 9, 9), (20, 20, 24, 24)]}))
    folder.text("251.xml", case(251, {1: [(0, 0, 3, 3)]}, tirads=""))
    folder.text("266.xml", case(266, {1: [(5, 5, 9, 9)]}).replace("}]</svg>", ', {"points": [{"x": 1, </svg>'))
    folder.text("62.xml", "<case><number>62</number><mark><image>1</image><svg></svg></mark></case>")
    items = {item.file.stem: item for item in conforms(DDTI, folder.root)}
    assert {name: (item.group, item.label) for name, item in items.items()} == {
        "1": ("1", "4b"),
        "1_2": ("1", "4b"),
        "251_1": ("251", ""),
        "266_1": ("266", "4b"),
        "266_2": ("266", "4b"),
        "62": ("62", ""),
    }
    covered = {name: (item.mask.load((40, 48)) > 0).sum() for name, item in items.items() if item.mask}
    assert covered == {"1": 100, "1_2": 50, "251_1": 16}


def test_an_image_of_ddti_without_its_case_is_reported(folder):
    folder.image("7_1.jpg")
    report = DDTI.check(folder.root)
    assert "1 images have no XML file of their case: 7_1.jpg" in report.missing


def test_the_whole_of_ddti_is_read(shared):
    root = shared / "data" / "raw" / "ddti"
    items = DDTI.items(root)
    report = DDTI.check(root)
    assert report.ok
    assert report.unexpected == ()
    assert report.found["items"] == 480
    assert report.found["groups"] == 390
    assert max(Counter(item.group for item in items).values()) == 5
    # All its images have 560 x 360 pixels.
    covered = [(item.mask.load((360, 560)) > 0).mean() for item in items if item.mask]
    assert len(covered) == 465
    assert 0.004 < min(covered) < max(covered) < 0.5


def test_outlines_of_ddti_lie_on_the_nodules_of_their_own_image(shared):
    """Most nodules are darker than what surrounds them; the same outline mirrored finds less of a difference."""
    better = []
    for item in DDTI.items(shared / "data" / "raw" / "ddti")[::8]:
        if item.mask:
            image = next(frames.read(item.file)).image.astype(float)
            mask = item.mask.load(image.shape)
            better.append(edge_contrast(image, mask) > edge_contrast(image, np.ascontiguousarray(mask[:, ::-1])))
    assert len(better) > 50
    assert np.mean(better) > 0.7


def edge_contrast(image, mask):
    band = np.ones((13, 13), np.uint8)
    return image[(cv2.dilate(mask, band) ^ mask) > 0].mean() - image[(cv2.erode(mask, band) ^ mask) > 0].mean()


def test_miniature_segthy(folder, conforms):
    """Layout: public loaders of US_data.zip from cs.cit.tum.de/camp/publications/segthy-dataset."""
    top = "US_volunteer_dataset"
    volume = np.random.default_rng(0).integers(0, 255, (3, 8, 10)).astype(np.uint8)
    labels = np.zeros_like(volume)
    labels[1, 2:4, 2:5], labels[1, 6, 6], labels[2, 7, 7] = 1, 2, 9
    for sweep in ("001_P1_1_left", "001_P1_1_right", "012_P3_2_left"):
        folder.volume(f"{top}/ground_truth_data/US/{sweep}_US.nii", volume)
        folder.volume(f"{top}/ground_truth_data/US_thyroid_label/{sweep}.nii", labels)
    folder.volume(f"{top}/sweeps/012_P1_1_left.nii", volume)
    items = conforms(SEGTHY, folder.root)
    assert [item.group for item in items] == ["001", "001", "012", "012"]
    assert [items[0].mask.load((8, 10), frame).max() for frame in range(3)] == [0, 2, 0]
    assert items[3].mask is None


def test_miniature_ccaui(folder, conforms):
    """Layout: public loaders of data.mendeley.com/datasets/d4xt63mgjm, which quote these file names."""
    top = "Common Carotid Artery Ultrasound Images"
    for name in (
        "202201121748100022VAS_slice_1069",
        "202201121748100022VAS_slice_1419",
        "202201121805110037VAS_slice_7",
    ):
        folder.image(f"{top}/US images/{name}.png", colour=True)
        folder.mask(f"{top}/Expert mask images/{name}.png")
    items = conforms(CCAUI, folder.root)
    assert [item.group for item in items] == ["202201121748100022VAS"] * 2 + ["202201121805110037VAS"]

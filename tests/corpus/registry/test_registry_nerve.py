"""Nerve data sets on miniatures of their published layouts."""

from __future__ import annotations

import json

import numpy as np
import pytest

from sonodistill.errors import DatasetError
from sonodistill_training.corpus.registry.nerve import BRACHIAL_PLEXUS, SPINAL_CORD_INJURY, UBPD


def brachial_plexus(folder):
    """Layout as Regional-US/brachial_plexus lists it; a line of b240.txt as it is published."""
    for scanner, clip in (("Butterfly", "b240"), ("Sonosite", "s071")):
        folder.video(f"data/{scanner}/videos/{clip}.mp4", size=(48, 64))
        boxes = ["[[10, 12, 20, 8]]", "[[10, 12, 20, 8], [40, 30, 10, 10]]"]
        lines = [json.dumps({str(i): {"tracker": "csrt", "bounding_boxes": text}}) for i, text in enumerate(boxes)]
        folder.text(f"data/{scanner}/bb_annotations/{clip}.txt", "\n".join(lines) + "\n")
        folder.image(f"data/{scanner}/ac_masks/{clip}/{clip}_000.jpg")
        folder.text(f"data/{scanner}/subjects_data.csv", f"vid_name,nerve,frame_cnt,gac_iter\n{clip},sc,3,3\n")
    folder.text("data/Sonosite/needle/needle_coordinates/s071.txt", "")
    folder.text("README.md", "# Brachial Plexus Nerve Segmentation")


def test_miniature_brachial_plexus(folder, conforms, notices):
    brachial_plexus(folder)
    items = conforms(BRACHIAL_PLEXUS, folder.root)
    assert [(item.group, item.label) for item in items] == [
        ("Butterfly/b240", "Butterfly"),
        ("Sonosite/s071", "Sonosite"),
    ]
    assert items[0].mask.frames == {0, 1}
    mask = items[0].mask.load((48, 64), 1)
    assert (mask[12:20, 10:30] == 255).all() and (mask[30:40, 40:50] == 255).all()
    assert np.count_nonzero(mask) == 20 * 8 + 10 * 10
    notices(BRACHIAL_PLEXUS, folder.root, "data/Sonosite/bb_annotations/s071.txt", "s071.mp4")


@pytest.mark.parametrize("line", ["{", '{"0": 3}', '{"0": {"bounding_boxes": "[[1, 2]]"}}', "[1]"])
def test_a_line_without_boxes_names_its_file(folder, line):
    brachial_plexus(folder)
    folder.text("data/Butterfly/bb_annotations/b240.txt", line)
    with pytest.raises(DatasetError, match=r"b240\.txt"):
        BRACHIAL_PLEXUS.items(folder.root)


def ubpd(folder):
    """Layout as two public loaders of UBPD describe it: LabelMe files with labels in pinyin, some with other bytes."""
    for number in (1, 2):
        folder.image(f"UBPD/JPEGImages/{number}.jpg", colour=True)
        shapes = [
            {"label": "shenjing", "points": [[10, 10], [19, 10], [19, 19], [10, 19]]},
            {"label": "dongmai", "points": [[30, 20], [39, 20], [39, 29], [30, 29]]},
            {"label": "something else", "points": [[0, 0]]},
        ]
        path = folder.text(f"UBPD/json_train/{number}.json", json.dumps({"imagePath": "@", "shapes": shapes}))
        path.write_bytes(path.read_bytes().replace(b"@", "图".encode("gbk")))


def test_miniature_ubpd(folder, conforms, notices):
    ubpd(folder)
    items = conforms(UBPD, folder.root)
    assert [item.group for item in items] == ["1", "2"]
    mask = items[0].mask.load((40, 48))
    assert (mask[10:20, 10:20] == 4).all() and (mask[20:30, 30:40] == 1).all() and np.count_nonzero(mask) == 200
    with pytest.raises(DatasetError, match="no frame 1"):
        items[0].mask.load((40, 48), 1)
    notices(UBPD, folder.root / "UBPD", "json_train/2.json", "JPEGImages/2.jpg")


def test_a_labelme_file_without_shapes_names_itself(folder):
    ubpd(folder)
    folder.text("UBPD/json_train/1.json", "{}")
    with pytest.raises(DatasetError, match=r"1\.json"):
        UBPD.items(folder.root)[0].mask.load((40, 48))


VOC = "<annotation><filename>x.png</filename>{}</annotation>"
OBJECT = (
    "<object><name>injury</name><bndbox><xmin>{}</xmin><ymin>10</ymin><xmax>30</xmax><ymax>18</ymax></bndbox></object>"
)


def spinal_cord(folder):
    """Layout as a public loader describes it: VOC files beside the images, masks in folders of their own."""
    top = "Final dataset for object detection"
    for split, stem, objects in (
        ("train", "predict4_scaled-A0004_frame1", OBJECT.format(12)),
        ("val", "predict4_scaled-A0091_frame1", ""),
        ("test", "predict5_scaled-A0139_frame1", OBJECT.format(12)),
    ):
        folder.image(f"{top}/{split}/{stem}.png")
        folder.text(f"{top}/{split}/{stem}.xml", VOC.format(objects))
        folder.image(f"SegmentationDataset/{split}_images/{stem}.png")
        folder.mask(f"SegmentationDataset/{split}_masks/{stem}.png", value=(0, 128, 128))
    return top


def test_miniature_spinal_cord_injury(folder, conforms, notices):
    top = spinal_cord(folder)
    items = conforms(SPINAL_CORD_INJURY, folder.root)
    assert [item.group for item in items] == ["predict5", "predict4", "predict4"] * 2
    assert {item.split for item in items} == {""}
    box = items[0].mask.load((40, 48))
    assert (box[10:18, 12:30] == 255).all() and np.count_nonzero(box) == 8 * 18
    assert not items[2].mask.load((40, 48)).any()
    assert (items[3].mask.load((40, 48))[10:20, 12:30] == 6).all()
    notices(SPINAL_CORD_INJURY, folder.root, f"{top}/train/predict4_scaled-A0004_frame1.xml", "frame1.png")


@pytest.mark.parametrize(
    "text", [VOC.format(OBJECT.format("left")), "<annotation>", '<!DOCTYPE a [<!ENTITY b "c">]><a/>']
)
def test_a_damaged_or_unsafe_voc_file_is_refused(folder, text):
    top = spinal_cord(folder)
    folder.text(f"{top}/test/predict5_scaled-A0139_frame1.xml", text)
    with pytest.raises(DatasetError, match=r"A0139_frame1\.xml"):
        SPINAL_CORD_INJURY.items(folder.root)[0].mask.load((40, 48))


def test_the_localization_part_alone_is_a_data_set(folder):
    spinal_cord(folder)
    for file in (folder.root / "SegmentationDataset").rglob("*.png"):
        file.unlink()
    assert len(SPINAL_CORD_INJURY.items(folder.root)) == 3

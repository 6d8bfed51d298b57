"""Abdomen data sets on miniatures of their published layouts, and AUL on real files."""

from __future__ import annotations

import json
from collections import Counter

import numpy as np
import pytest

import sonodistill.frames as frames
from sonodistill.errors import DatasetError
from sonodistill_training.corpus.registry.abdomen import ABDOMENUS, AUL, GIST514_DB, KIDNEYUS, US105


def test_miniature_us105(folder, conforms, notices):
    """Layout as two public loaders of 105US describe it: two folders, masks called "NNN G man.png"."""
    for number in ("001", "002"):
        folder.image(f"105US/105 US Images/{number}.png", colour=True)
        folder.mask(f"105US/105 US Masks/{number} G man.png", box=(5, 6, 15, 20), background=20)
    folder.text("105US/105 US Images/readme.txt", "105 images")
    items = conforms(US105, folder.root)
    assert [item.group for item in items] == ["001", "002"]
    mask = items[0].mask.load((40, 48))
    assert (mask[5:15, 6:20] == 255).all() and np.count_nonzero(mask) == 10 * 14
    notices(US105, folder.root / "105US", "105 US Masks/002 G man.png", "105 US Images/002.png")


def test_miniature_abdomenus(folder, conforms, notices):
    """Layout as several public loaders of abdominal_US describe it; colours from the loader of UltraSam."""
    for name in ("AUS/images/train/ct14-1.png", "AUS/images/train/ct14-2.png", "RUS/images/train/us7.jpg"):
        folder.image(f"abdominal_US/{name}", colour=True)
    folder.image("abdominal_US/RUS/images/test/us9.png")
    folder.mask("abdominal_US/AUS/annotations/train/ct14-1.png", value=(100, 0, 100))
    folder.mask("abdominal_US/RUS/annotations/test/us9.png", value=(255, 0, 255))
    items = conforms(ABDOMENUS, folder.root)
    assert [(item.group, item.label, item.split, item.mask is None) for item in items] == [
        ("aus/ct14", "simulated", "train", False),
        ("aus/ct14", "simulated", "train", True),
        ("rus/us9", "real", "test", False),
        ("rus/us7", "real", "train", True),
    ]
    assert set(np.unique(items[0].mask.load((40, 48)))) == {0, 1}
    assert (items[2].mask.load((40, 48))[10:20, 12:30] == 8).all()
    notices(ABDOMENUS, folder.root / "abdominal_US", "RUS/images/test/us9.png", "label:real: 1 of 617")


def aul(folder):
    """Layout of Zenodo 7272660, seen on the data: a polygon of [x, y] a file, in segmentation/{mass,liver,outline}."""
    square = [[10.4, 5.2], [29.6, 5.2], [29.6, 24.8], [10.4, 24.8]]
    for name in ("Benign", "Malignant", "Normal"):
        for number in (1, 2):
            folder.image(f"{name}/image/{number}.jpg", colour=True)
            for part in ("liver", "outline") if name == "Normal" else ("liver", "mass", "outline"):
                folder.text(f"{name}/segmentation/{part}/{number}.json", json.dumps(square))


def test_miniature_aul(folder, conforms, notices):
    aul(folder)
    items = conforms(AUL, folder.root)
    assert [item.group for item in items] == [
        f"{name}/{i}" for name in ("Benign", "Malignant", "Normal") for i in (1, 2)
    ]
    assert Counter(item.label for item in items) == {"benign": 2, "malignant": 2, "normal": 2}
    assert [item.mask is None for item in items] == [False] * 4 + [True] * 2
    mask = items[0].mask.load((40, 48))
    assert (mask[5:26, 10:31] == 255).all() and np.count_nonzero(mask) == 21 * 21
    notices(AUL, folder.root, "Malignant/segmentation/mass/2.json", "Malignant/image/2.jpg")


def test_a_polygon_that_is_none_names_its_file(folder):
    aul(folder)
    folder.text("Benign/segmentation/mass/1.json", '{"points": 3}')
    with pytest.raises(DatasetError, match=r"mass.1\.json"):
        AUL.items(folder.root)[0].mask.load((40, 48))


def test_aul_as_it_lies(shared, conforms):
    root = shared / "data" / "raw" / "aul"
    items = AUL.items(root)
    assert Counter(item.label for item in items) == {"benign": 3, "malignant": 3, "normal": 3}
    assert len({item.group for item in items}) == 9
    for item in items:
        (frame,) = frames.read(item.file)
        if item.label == "normal":
            assert item.mask is None
        else:
            share = (item.mask.load(frame.image.shape) > 0).mean()
            assert 0.001 < share < 0.6
    report = AUL.check(root)
    assert report.unexpected == () and all("published" in line for line in report.missing)


VIA = "filename,file_size,file_attributes,region_count,region_id,region_shape_attributes,region_attributes\n"


def kidneyus(folder):
    """Labels as rsingla92/kidneyUS lists and fills them, images as two public loaders describe them."""
    names = ("1_IM-0001-0059_anon.png", "110_IM-0026-0001_anon.png", "110_IM-0026-0005_anon.png")
    for name in names:
        folder.image(f"kidneyUS_images_14_june_2022/{name}", colour=True)
    for sonographer in (1, 2):
        for name in names[:2]:
            folder.mask(f"labels/reviewed_masks_{sonographer}/capsule/{name}", box=(4, 5, 14, 25))
            folder.mask(f"labels/reviewed_masks_{sonographer}/regions/{name}", value=2)
        attributes = '"{""Quality"":""Fair"",""View"":""Transverse"",""Comments"":""n/a""}"'
        rows = [f'{names[0]},1,{attributes},1,{i},"{{}}","{{""Anatomy"":""Capsule""}}"\n' for i in (0, 1)]
        folder.text(f"labels/reviewed_labels_{sonographer}.csv", VIA + "".join(rows))
    folder.text("README.md", "The Open Kidney Ultrasound Data Set")


def test_miniature_kidneyus(folder, conforms, notices):
    kidneyus(folder)
    items = conforms(KIDNEYUS, folder.root)
    assert [(item.group, item.label, item.mask is None) for item in items] == [
        ("IM-0026", "", False),
        ("IM-0026", "", True),
        ("IM-0001", "transverse", False),
    ]
    mask = items[0].mask.load((40, 48))
    assert (mask[4:14, 5:25] == 255).all() and np.count_nonzero(mask) == 10 * 20
    for file in (folder.root / "kidneyUS_images_14_june_2022").glob("110_*"):
        file.unlink()
    notices(KIDNEYUS, folder.root, "kidneyUS_images_14_june_2022/1_IM-0001-0059_anon.png", "files like")


def gist(folder, tables=("all_anno_crop.json",)):
    """Layout as three public loaders of GIST514-DB describe it: images and annotations in COCO's format."""
    for number in (1, 2, 3):
        folder.image(f"usd514_jpeg_roi/images/{number}.jpg", colour=True)
    for name, numbers in zip(tables, ((1, 2, 3),) if len(tables) == 1 else ((1, 2), (3,)), strict=True):
        images = [{"id": 10 + n, "file_name": f"{n}.jpg", "height": 40, "width": 48} for n in numbers]
        corners = [12, 8, 31, 8, 31, 27, 12, 27]
        lesions = [{"image_id": 10 + n, "category_id": 1 + n % 2, "segmentation": [corners]} for n in numbers]
        folder.text(f"usd514_jpeg_roi/annotations/{name}", json.dumps({"images": images, "annotations": lesions}))


def test_miniature_gist514_db(folder, conforms, notices):
    gist(folder)
    items = conforms(GIST514_DB, folder.root)
    assert [(item.group, item.label) for item in items] == [("1", "gist"), ("2", "leiomyoma"), ("3", "gist")]
    mask = items[0].mask.load((40, 48))
    assert (mask[8:28, 12:32] == 2).all() and np.count_nonzero(mask) == 400
    notices(GIST514_DB, folder.root, "usd514_jpeg_roi/images/2.jpg", "images/2.jpg")


def test_gist514_db_with_a_split_alone_has_every_lesion(folder):
    gist(folder, ("train_anno_crop_split_0.json", "val_anno_crop_split_0.json"))
    assert all(item.mask for item in GIST514_DB.items(folder.root))


@pytest.mark.parametrize("text", ["[]", '{"images": [], "annotations": [{"segmentation": [[1, 2, 3]]}]}', "{"])
def test_annotations_that_are_no_coco_name_their_file(folder, text):
    gist(folder)
    folder.text("usd514_jpeg_roi/annotations/all_anno_crop.json", text)
    with pytest.raises(DatasetError, match=r"all_anno_crop\.json"):
        GIST514_DB.items(folder.root)

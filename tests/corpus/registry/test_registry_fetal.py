"""Obstetric data sets, on miniatures of their published layouts and on real files of HC18."""

from __future__ import annotations

import csv
import math
from pathlib import Path

import cv2
import numpy as np
import pytest

import sonodistill.frames as frames
from sonodistill.errors import DatasetError
from sonodistill_training.corpus.registry.fetal import (
    FASS,
    FAST_U_NET,
    FETAL_ECHO,
    FETAL_PLANES,
    HC18,
    JNU_IFM,
    PSFHS,
    US_FETUS,
)


def outline(path, shape=(40, 48)):
    """An ellipse drawn as HC18's annotations are; returns the ellipse filled."""
    drawn, filled = np.zeros(shape, np.uint8), np.zeros(shape, np.uint8)
    ellipse = ((24.0, 20.0), (30.0, 18.0), 20.0)
    cv2.ellipse(drawn, ellipse, 255, 1)
    cv2.ellipse(filled, ellipse, 255, -1)
    path.parent.mkdir(parents=True, exist_ok=True)
    cv2.imwrite(str(path), drawn)
    return filled > 0


def test_miniature_hc18(folder, conforms):
    """Layout: zenodo.org/records/1327317 and the files under shared/data/raw/hc18."""
    for name in ("training_set/000_HC", "training_set/010_2HC", "training_set/010_HC", "test_set/000_HC"):
        folder.image(f"{name}.png")
    for name in ("000_HC", "010_2HC", "010_HC"):
        filled = outline(folder.root / f"training_set/{name}_Annotation.png")
    folder.text(
        "training_set_pixel_size_and_HC.csv",
        "filename,pixel size(mm),head circumference (mm)\n000_HC.png,0.07,44.3\n010_2HC.png,0.08,60\n010_HC.png,,61\n",
    )
    folder.text("test_set_pixel_size.csv", "filename,pixel size(mm)\n000_HC.png,0.24\n")
    items = conforms(HC18, folder.root)
    assert [(item.group, item.split, item.mm_per_pixel) for item in items] == [
        ("test/000", "test", 0.24),
        ("train/000", "train", 0.07),
        ("train/010", "train", 0.08),
        ("train/010", "train", None),
    ]
    mask = items[1].mask.load((40, 48)) > 0
    assert (mask & filled).sum() / (mask | filled).sum() > 0.95
    assert items[0].mask is None


def test_filled_ellipses_of_hc18_have_the_published_circumference(shared):
    root = shared / "data" / "raw" / "hc18"
    with (root / "training_set_pixel_size_and_HC.csv").open(newline="") as file:
        published = {row["filename"]: float(row["head circumference (mm)"]) for row in csv.DictReader(file)}
    measured = {}
    for item in HC18.items(root):
        if item.mask:
            mask = item.mask.load(next(frames.read(item.file)).image.shape)
            (contour,), _ = cv2.findContours(mask, cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_NONE)
            _, (first, second), _ = cv2.fitEllipseDirect(contour)
            a, b = first / 2, second / 2
            around = math.pi * (3 * (a + b) - math.sqrt((3 * a + b) * (a + 3 * b)))
            measured[item.file.name] = around * item.mm_per_pixel
    assert len(measured) >= 5
    for name, value in measured.items():
        assert value == pytest.approx(published[name], rel=0.01), name


def test_two_images_of_one_woman_of_hc18_stay_together(shared):
    groups = {
        item.file.name: item.group for item in HC18.items(shared / "data" / "raw" / "hc18") if item.split == "train"
    }
    assert groups["010_HC.png"] == groups["010_2HC.png"] != groups["000_HC.png"]


def test_miniature_jnu_ifm(folder, conforms):
    """Layout: loaders of us_data/VIDEO/{image,mask,mask_enhance} with frame_label.csv; Data in Brief 41:107904."""
    for video in ("20190830T115515", "20190909T090909"):
        for frame in (0, 14):
            folder.image(f"us_data/{video}/image/{video}_{frame}.png")
            folder.mask(f"us_data/{video}/mask/{video}_{frame}_mask.png", value=7 if frame else 8)
            folder.mask(f"us_data/{video}/mask_enhance/{video}_{frame}_mask.png", value=(255, 0, 0))
        folder.text(f"us_data/{video}/frame_label.csv", "frame_id,frame_label\n0,5\n14,4\n")
    items = conforms(JNU_IFM, folder.root)
    assert [item.group for item in items] == ["20190830T115515"] * 2 + ["20190909T090909"] * 2
    assert [item.label for item in items][:2] == ["head", "symphysis"]
    assert [item.mask.load((40, 48)).max() for item in items][:2] == [2, 1]


def test_miniature_psfhs(folder, conforms):
    """Layout: loaders of zenodo.org/records/10969427 (PSFHS/{image_mha,label_mha}); images hold three equal planes."""
    labels = np.zeros((16, 16), np.uint8)
    labels[2:5, 2:5], labels[8:14, 8:14] = 1, 2
    for number in ("00001", "01358"):
        plane = np.random.default_rng(int(number)).integers(0, 255, (16, 16)).astype(np.uint8)
        folder.volume(f"PSFHS/image_mha/{number}.mha", np.stack([plane] * 3))
        folder.volume(f"PSFHS/label_mha/{number}.mha", labels)
    items = conforms(PSFHS, folder.root)
    assert [item.group for item in items] == ["00001", "01358"]
    assert np.array_equal(items[0].mask.load((16, 16), 0), labels)
    assert len(list(frames.read(items[0].file, only=items[0].only))) == 1


def test_miniature_fass(folder, conforms):
    """Layout: loaders of data.mendeley.com/datasets/4gcpm9dsc3 (IMAGES/P1_IMG1.png, ARRAY_FORMAT/P1_IMG1.npy)."""
    top = "Fetal Abdominal Structures Segmentation Dataset Using Ultrasonic Images"
    drawn = {name: np.zeros((40, 48), np.uint8) for name in ("artery", "liver", "stomach", "vein")}
    for number, (name, mask) in enumerate(drawn.items()):
        mask[8 * number : 8 * number + (10 if name == "liver" else 5), 4:20] = 1
    for name in ("P1_IMG1", "P1_IMG12", "P12_IMG1"):
        folder.image(f"{top}/IMAGES/{name}.png", colour=True)
        pickled(folder.root / top / f"ARRAY_FORMAT/{name}.npy", {"image": drawn["liver"], "structures": drawn})
    items = conforms(FASS, folder.root)
    assert sorted(item.group for item in items) == ["P1", "P1", "P12"]
    codes = items[0].mask.load((40, 48))
    assert FASS.structures == ("aorta", "liver", "stomach", "umbilical vein")
    assert np.unique(codes[0:5, 4:20]).tolist() == [1]
    assert np.unique(codes[16:18, 4:20]).tolist() == [3]  # of two that overlap, the higher code
    assert np.unique(codes[24:29, 4:20]).tolist() == [4]
    assert not codes[:, 20:].any()


def pickled(path, content):
    path.parent.mkdir(parents=True, exist_ok=True)
    np.save(path, np.array(content, dtype=object), allow_pickle=True)


class _Runs:
    def __init__(self, mark):
        self.mark = mark

    def __reduce__(self):
        return Path.touch, (self.mark,)


def test_a_pickle_that_would_run_something_is_refused_and_does_not_run(folder):
    folder.image("IMAGES/P1_IMG1.png")
    mark = folder.root / "ran"
    pickled(folder.root / "ARRAY_FORMAT/P1_IMG1.npy", {"structures": {"liver": _Runs(mark)}})
    (item,) = FASS.items(folder.root)
    with pytest.raises(DatasetError, match="may run code and is not read"):
        item.mask.load((40, 48))
    assert not mark.exists()


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({"structures": {"spleen": np.zeros((40, 48))}}, "called spleen"),
        ({"structures": {"liver": np.zeros((4, 4))}}, "its liver is"),
        ({"image": np.zeros((40, 48))}, "holds no structures"),
    ],
)
def test_an_unexpected_pickle_is_refused_by_name(folder, content, message):
    folder.image("IMAGES/P1_IMG1.png")
    pickled(folder.root / "ARRAY_FORMAT/P1_IMG1.npy", content)
    (item,) = FASS.items(folder.root)
    with pytest.raises(DatasetError, match=message) as caught:
        item.mask.load((40, 48))
    assert caught.value.path.name == "P1_IMG1.npy"


def test_miniature_fast_u_net(folder, conforms):
    """Layout: the lists Dataset/{AC,HC}/{train,val}.txt of github.com/vahidashkani/Fast-U-Net."""
    lists = {"AC": {"train": ["0039", "fa_0079"], "val": ["0040"]}, "HC": {"train": ["514_HC", "514_2HC"], "val": []}}
    for plane, parts in lists.items():
        ending = "_Annotation" if plane == "HC" else ""
        top = f"Dataset/{plane}/resized_data"
        for part, names in parts.items():
            for name in names:
                folder.image(f"{top}/image/{name}.png")
                folder.mask(f"{top}/mask/{name}{ending}.png")
            lines = [f"resized_data/image/{name}.png resized_data/mask/{name}{ending}.png" for name in names]
            folder.text(f"Dataset/{plane}/{part}.txt", "\n".join(lines))
    folder.image("test_data/image/1582.jpg")
    folder.mask("test_data/mask/1582.jpg", size=(20, 24), box=(5, 5, 10, 10))
    folder.text("Dataset/AC/AC_mask.rar", "x")
    folder.text("test.py", "x")
    items = conforms(FAST_U_NET, folder.root)
    assert {(item.group, item.label, item.split) for item in items} == {
        ("AC/0039", "AC", "train"),
        ("AC/fa_0079", "AC", "train"),
        ("AC/0040", "AC", "validation"),
        ("HC/514", "HC", "train"),
        ("test/1582", "", "test"),
    }


def test_miniature_us_fetus(folder, conforms):
    """Layout: loaders of kaggle.com/datasets/orvile/ultrasound-fetus-dataset; names are those of HC18."""
    top = "Ultrasound Fetus Dataset/Ultrasound Fetus Dataset/Data/Data"
    for name in ("train/normal/010_HC", "test/malignant/010_2HC", "validation/benign/picture 7"):
        folder.image(f"{top}/{name}.png")
    outline(folder.root / f"{top}/test/malignant/010_2HC_Annotation.png")
    folder.image(f"{top}/Datasets/normal/010_HC.png")
    folder.text(f"{top}/FetusDataset.csv", "baseline value\n120\n")
    items = conforms(US_FETUS, folder.root)
    assert [(item.group, item.label, item.split) for item in items] == [
        ("010", "malignant", ""),
        ("010", "normal", ""),
        ("picture 7", "benign", ""),
    ]
    assert (items[0].mask.load((40, 48)) > 0).sum() > 300


def test_miniature_fetal_echo(folder, conforms):
    """Layout: a folder a view, by the views that papers on figshare 21215492 name; folder names are not verified."""
    for name in (
        "train/Aorta/1.png",
        "train/V sign/1.png",
        "test/X sign/1.jpg",
        "test/Flows/2.png",
        "test/Other/3.png",
    ):
        folder.image(f"fetal/{name}")
    items = conforms(FETAL_ECHO, folder.root)
    assert {(item.label, item.split) for item in items} == {
        ("aorta", "train"),
        ("v sign", "train"),
        ("x sign", "test"),
        ("flows", "test"),
        ("other", "test"),
    }
    assert len({item.group for item in items}) == 5


def test_miniature_fetal_planes(folder, conforms):
    """Layout: README of zenodo.org/records/3904280 as loaders quote it; the header ends in "Train " with a blank."""
    rows = ["Image_name;Patient_num;Plane;Brain_plane;Operator;US_Machine;Train "]
    for number, patient, plane, train in ((1, 7, "Fetal brain", 1), (2, 7, "Other", 1), (3, 12, "Fetal femur", 0)):
        name = f"Patient{patient:05}_Plane3_{number}_of_3"
        folder.image(f"FETAL_PLANES_ZENODO/Images/{name}.png")
        rows.append(f"{name};{patient};{plane};Not A Brain;Op. 1;Voluson E6;{train}")
    folder.text("FETAL_PLANES_ZENODO/FETAL_PLANES_DB_data.csv", "\n".join(rows))
    folder.text("FETAL_PLANES_ZENODO/README.txt", "x")
    items = conforms(FETAL_PLANES, folder.root)
    assert [(item.group, item.label, item.split) for item in items] == [
        ("7", "Fetal brain", "train"),
        ("7", "Other", "train"),
        ("12", "Fetal femur", "test"),
    ]

"""Pelvis data sets on miniatures of their published layouts."""

from __future__ import annotations

import numpy as np
import pytest
import SimpleITK as sitk

from sonodistill.errors import DatasetError
from sonodistill_training.corpus.registry.pelvis import MICROSEG, MMOTU_2D, MMOTU_3D, MU_REGPRO


def mmotu(folder, top):
    """Layout as several public loaders of MMOTU describe it: images in capitals, masks by class and binary, lists."""
    for number in (1, 2, 138):
        folder.image(f"{top}/images/{number}.JPG", colour=True)
        folder.mask(f"{top}/annotations/{number}.PNG", value=(64, 0, 0))
        folder.mask(f"{top}/annotations/{number}_binary.PNG", box=(6, 6, 16, 36))
    folder.text(f"{top}/train_cls.txt", "1.JPG  0\n138.JPG  3\n")
    folder.text(f"{top}/val_cls.txt", "2.JPG  7\n")
    folder.text(f"{top}/train.txt", "1\n138\n")
    folder.text(f"{top}/val.txt", "2\n")


def test_miniature_mmotu_2d(folder, conforms, notices):
    mmotu(folder, "OTU_2d")
    items = conforms(MMOTU_2D, folder.root)
    assert [(item.group, item.label, item.split) for item in items] == [
        ("1", "chocolate cyst", "train"),
        ("138", "theca cell tumor", "train"),
        ("2", "high grade serous", "test"),
    ]
    mask = items[0].mask.load((40, 48))
    assert (mask[6:16, 6:36] == 255).all() and np.count_nonzero(mask) == 10 * 30
    notices(MMOTU_2D, folder.root, "OTU_2d/annotations/2_binary.PNG", "2.JPG")


def test_miniature_mmotu_3d(folder, conforms, notices):
    mmotu(folder, "OTU_3d")
    items = conforms(MMOTU_3D, folder.root)
    assert [(item.group, item.label, item.split) for item in items] == [
        ("1", "0", "train"),
        ("138", "3", "train"),
        ("2", "7", "test"),
    ]
    notices(MMOTU_3D, folder.root, "OTU_3d/images/138.JPG", "138.jpg")


def test_the_two_parts_of_mmotu_are_told_apart(folder):
    mmotu(folder, "OTU_2d")
    mmotu(folder, "OTU_3d")
    assert {item.file.parts[-3] for item in MMOTU_2D.items(folder.root)} == {"OTU_2d"}
    assert {item.file.parts[-3] for item in MMOTU_3D.items(folder.root)} == {"OTU_3d"}


def test_a_list_of_classes_that_is_none_names_its_file(folder):
    mmotu(folder, "OTU_2d")
    folder.text("OTU_2d/val_cls.txt", "2.JPG high grade serous\n")
    with pytest.raises(DatasetError, match=r"val_cls\.txt"):
        MMOTU_2D.items(folder.root)


def test_miniature_microseg(folder, conforms, notices):
    """Layout of Zenodo 10475293 as the authors' preprocessing and public loaders describe it."""
    top = "Micro_Ultrasound_Prostate_Segmentation_Dataset"
    for split, number in (("train", "01"), ("train", "02"), ("test", "01")):
        sweep = np.random.default_rng(int(number)).integers(0, 254, (3, 20, 28), np.uint8)
        label = np.zeros_like(sweep)
        label[1, 4:10, 5:15] = 1
        folder.volume(f"{top}/{split}/micro_ultrasound_scans/microUS_{split}_{number}.nii.gz", sweep)
        folder.volume(f"{top}/{split}/expert_annotations/expert_annotation_{split}_{number}.nii.gz", label)
        other = ("non_expert_annotations", "nonexpert") if split == "train" else ("clinician_annotations", "clinician")
        folder.volume(f"{top}/{split}/{other[0]}/{other[1]}_annotation_{split}_{number}.nii.gz", label)
    items = conforms(MICROSEG, folder.root)
    assert [(item.group, item.split) for item in items] == [
        ("test_01", "test"),
        ("train_01", "train"),
        ("train_02", "train"),
    ]
    assert (items[0].mask.load((20, 28), 1)[4:10, 5:15] == 255).all() and not items[0].mask.load((20, 28), 0).any()
    lost = "train/expert_annotations/expert_annotation_train_02.nii.gz"
    notices(MICROSEG, folder.root / top, lost, "microUS_train_02.nii.gz")


def regpro(folder, shape=(3, 20, 24)):
    """Layout as the organisers' loader (muregpro/Baseline-Networks) reads it: labels of four dimensions."""
    for split, case in (("train", "case000001"), ("val", "case000065")):
        volume = np.random.default_rng(1).integers(0, 255, shape).astype(np.float32)
        labels = np.zeros((6, *shape), np.uint8)
        labels[0, 1, 4:12, 5:15] = 1
        labels[2, 1, 6:8, 7:9] = 1
        for part in ("us", "mr"):
            folder.volume(f"{split}/{part}_images/{case}.nii.gz", volume, spacing=(0.8, 0.8, 0.8))
            path = folder.root / f"{split}/{part}_labels/{case}.nii.gz"
            path.parent.mkdir(parents=True)
            sitk.WriteImage(sitk.GetImageFromArray(labels, isVector=False), str(path))


def test_miniature_mu_regpro(folder, conforms, notices):
    regpro(folder)
    items = conforms(MU_REGPRO, folder.root)
    assert [(item.group, item.split) for item in items] == [("case000001", "train"), ("case000065", "validation")]
    mask = items[0].mask.load((20, 24), 1)
    assert np.count_nonzero(mask == 1) == 8 * 10 - 4 and (mask[6:8, 7:9] == 3).all()
    assert not items[0].mask.load((20, 24), 0).any()
    with pytest.raises(DatasetError, match="slice 3"):
        items[0].mask.load((20, 24), 3)
    notices(MU_REGPRO, folder.root, "val/us_labels/case000065.nii.gz", "case000065.nii.gz")


def test_a_label_volume_of_three_dimensions_is_refused(folder):
    regpro(folder)
    folder.volume("train/us_labels/case000001.nii.gz", np.zeros((3, 20, 24), np.uint8))
    with pytest.raises(DatasetError, match="3 dimensions"):
        MU_REGPRO.items(folder.root)[0].mask.load((20, 24), 1)

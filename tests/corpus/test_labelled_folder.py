"""Labelled folders: splits by group, masks, classes, and what a broken index says."""

from __future__ import annotations

import csv
from collections import Counter, defaultdict

import pytest
from PIL import Image

from sonodistill.errors import DatasetError
from sonodistill_training.corpus.labelled import (
    class_names,
    classification_items,
    read_labelled,
    segmentation_items,
)


def write_folder(folder, rows):
    folder.mkdir()
    for row in rows:
        Image.new("L", (8, 8)).save(folder / row["file"])
    with (folder / "index.csv").open("w", newline="") as file:
        writer = csv.DictWriter(file, ["file", "mask", "label", "group", "split"])
        writer.writeheader()
        writer.writerows(rows)
    return folder


@pytest.fixture
def cases(tmp_path):
    rows = [
        {
            "file": f"{case}_{i}.png",
            "mask": f"{case}_{i}.png",
            "label": "ab"[case % 2],
            "group": f"case{case}",
            "split": "",
        }
        for case in range(60)
        for i in range(3)
    ]
    return write_folder(tmp_path / "cases", rows)


def test_a_case_is_never_divided_between_splits(cases):
    splits = defaultdict(set)
    for frame in read_labelled(cases):
        splits[frame.group].add(frame.split)
    assert all(len(found) == 1 for found in splits.values())
    assert len(set.union(*splits.values())) == 3
    assert all(share > 0 for share in Counter(frame.split for frame in read_labelled(cases)).values())


def test_adding_cases_moves_none(cases, tmp_path):
    before = {frame.group: frame.split for frame in read_labelled(cases)}
    rows = [{"file": f"n{i}.png", "mask": "", "label": "a", "group": f"new{i}", "split": ""} for i in range(20)]
    old = list(csv.DictReader((cases / "index.csv").open()))
    after = {frame.group: frame.split for frame in read_labelled(write_folder(tmp_path / "more", old + rows))}
    assert all(after[group] == split for group, split in before.items())


def test_a_given_split_is_respected(tmp_path):
    rows = [
        {"file": f"{s}.png", "mask": "", "label": "", "group": s, "split": s} for s in ("train", "validation", "test")
    ]
    assert {frame.group: frame.split for frame in read_labelled(write_folder(tmp_path / "f", rows))} == {
        "train": "train",
        "validation": "validation",
        "test": "test",
    }


def test_items_pair_images_with_masks_and_classes(cases):
    for item in segmentation_items(cases, "train"):
        assert item["image"] == item["label"]
    assert class_names(cases) == ["a", "b"]
    assert {item["label"] for item in classification_items(cases, "train")} == {0, 1}


def test_a_named_file_that_is_not_there_is_named(cases):
    (cases / "0_0.png").unlink()
    with pytest.raises(DatasetError, match="0_0.png"):
        read_labelled(cases)


def test_a_folder_without_index_says_what_it_needs(tmp_path):
    with pytest.raises(DatasetError, match="index.csv"):
        read_labelled(tmp_path)


def test_a_split_without_masks_is_an_error(tmp_path):
    rows = [{"file": "a.png", "mask": "", "label": "a", "group": "g", "split": ""}]
    with pytest.raises(DatasetError, match="no frame with a mask"):
        segmentation_items(write_folder(tmp_path / "f", rows), "train")


def test_busi_is_read_as_it_lies(shared):
    frames = read_labelled(shared / "data" / "frames" / "busi")
    assert len(frames) == 780 and class_names(shared / "data" / "frames" / "busi") == ["benign", "malignant", "normal"]
    shares = Counter(frame.split for frame in frames)
    assert abs(shares["train"] / 780 - 0.7) < 0.05 and abs(shares["test"] / 780 - 0.1) < 0.04

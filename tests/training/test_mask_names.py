"""What a fine-tuned model calls what its masks show: what the data say, what was said, and never a wrong name."""

from __future__ import annotations

import csv
import logging
from pathlib import Path

import cv2
import numpy as np
import pytest
from monai.bundle import ConfigParser

from sonodistill.bundle import CONFIGS, package_bundle
from sonodistill.errors import BundleConfigError
from sonodistill.networks.unet import Segmenter
from sonodistill_training.corpus.registry import data_sets
from sonodistill_training.corpus.simulator import write_simulated
from sonodistill_training.evaluate.prepare import prepare
from sonodistill_training.finetune.handlers import SaveBest
from sonodistill_training.finetune.labels import UNNAMED, mask_names, structure_name

SAMPLE = package_bundle() / "sample_data"


def frames(folder: Path, rows: list[dict[str, str]]) -> Path:
    """A folder whose index has these rows, each of an image and a mask."""
    folder.mkdir()
    for at, row in enumerate(rows):
        row |= {"file": f"{at}.png", "mask": f"{at}-mask.png"}
        cv2.imwrite(str(folder / row["file"]), np.full((8, 8), at, np.uint8))
        cv2.imwrite(str(folder / row["mask"]), np.zeros((8, 8), np.uint8))
    with (folder / "index.csv").open("w", newline="") as file:
        table = csv.DictWriter(file, rows[0].keys())
        table.writeheader()
        table.writerows(rows)
    return folder


@pytest.mark.parametrize(
    ("rows", "name"),
    [
        ([{"dataset": "busi"}, {"dataset": "busi"}], "lesion"),
        ([{"dataset": "hc18"}], "fetal head"),
        ([{"dataset": "hc18", "structure": "skull"}], "skull"),
        ([{"dataset": "psfhs"}], "fetal head or pubic symphysis"),
        ([{"structures": "1=symphysis;2=head"}, {"structures": "2=head"}], "head or symphysis"),
        ([{"dataset": "busi"}, {"dataset": "hc18"}], "fetal head or lesion"),
        ([{"dataset": "busi"}, {"dataset": "mine"}], ""),
        ([{"label": "benign"}], ""),
    ],
)
def test_the_index_names_what_the_masks_show(tmp_path, rows, name):
    assert structure_name(frames(tmp_path / "frames", rows)) == name


def test_masks_that_nobody_named_are_called_so_with_a_warning(tmp_path, caplog):
    folder = frames(tmp_path / "frames", [{"label": "benign"}])
    with caplog.at_level(logging.WARNING):
        assert mask_names(folder) == [UNNAMED]
    assert "--labels \"['name']\"" in caplog.text and str(folder) in caplog.text


def test_every_single_structure_of_the_registry_is_a_short_name():
    named = {key: known.structure for key, known in data_sets().items() if known.structure}
    assert {"busi", "hc18", "ddti", "aul"} <= named.keys()
    assert not any(known.structure and known.structures for known in data_sets().values())
    assert all(name == name.strip().lower() and len(name) < 30 for name in named.values())


def test_a_prepared_folder_carries_the_name(tmp_path):
    counts = prepare("sample", SAMPLE, tmp_path / "out", "segmentation", "seed")
    assert sum(counts.values()) > 0 and structure_name(tmp_path / "out") == structure_name(SAMPLE) == "lesion"


@pytest.mark.parametrize(
    ("given", "labels"), [({}, ["lesion"]), ({"labels": ["cyst"]}, ["cyst"]), ({"labels": "cyst"}, "cyst")]
)
def test_the_config_takes_the_name_of_the_data_unless_one_is_given(tmp_path, given, labels):
    parser = ConfigParser()
    parser.read_config(str(package_bundle() / CONFIGS / "train.yaml"))
    parser.update({"dataset_dir": str(write_simulated(tmp_path / "frames", 8, size=(32, 32), progress=False)), **given})
    assert parser.get_parsed_content("labels") == labels


def test_as_many_names_as_channels_are_asked_for_before_the_training(tmp_path):
    network = Segmenter("resnet10t", weights=None)
    assert SaveBest(tmp_path, network, "dice", (64, 64), "cyst").info.labels == ("cyst",)
    with pytest.raises(BundleConfigError, match="--labels has 2 names .a, b., and the network 1 channel"):
        SaveBest(tmp_path, network, "dice", (64, 64), ["a", "b"])

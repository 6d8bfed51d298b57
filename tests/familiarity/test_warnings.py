"""What a user sees of the warning score: a column, a line, a refusal; and nothing of a model without."""

from __future__ import annotations

import csv
from pathlib import Path

import cv2
import numpy as np
import pydicom
import pytest
from pydicom import examples

from sonodistill.dicom.batch import predict_folder
from sonodistill.dicom.settings import Outputs, RouteSettings
from sonodistill.inference.files import predict_files
from sonodistill.inference.predictor import Predictor


def table(path: Path) -> list[dict[str, str]]:
    with path.open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


@pytest.fixture
def folder(tmp_path, frames, strange):
    """One real frame and one of noise."""
    home = tmp_path / "images"
    home.mkdir()
    cv2.imwrite(str(home / "a.png"), frames[1].image)
    cv2.imwrite(str(home / "b.png"), np.rint(strange[0, 0] * 255).astype(np.uint8))
    return home


def test_predict_writes_a_column_and_says_how_many_frames_are_unfamiliar(checkpoints, folder, tmp_path, capsys):
    predictor = Predictor(checkpoints[1], runtime="torch")
    for _ in range(2):  # what the first run wrote is known as such to the second
        assert predict_files(predictor, [folder], tmp_path / "out") == 0
    rows = table(tmp_path / "out" / "index.csv")
    assert [float(row["unfamiliarity"]) > 1 for row in rows] == [False, True]
    assert "warning: 1 of 2 frames are unlike" in capsys.readouterr().err


def test_predict_of_a_model_without_a_score_is_as_before(checkpoints, folder, tmp_path, capsys):
    assert predict_files(Predictor(checkpoints[0], runtime="torch"), [folder], tmp_path / "out") == 0
    assert "unfamiliarity" not in table(tmp_path / "out" / "index.csv")[0]
    assert "warning" not in capsys.readouterr().err


def of_noise(path: Path) -> Path:
    ds = pydicom.dcmread(examples.get_path("rgb_color"))
    ds.PixelData = np.random.default_rng(0).integers(0, 256, len(ds.PixelData), np.uint8).tobytes()
    ds.save_as(path)
    return path


@pytest.mark.parametrize("policy", ["warn", "refuse"])
def test_a_dicom_image_of_noise_is_warned_of_or_refused(checkpoints, tmp_path, policy, capsys):
    rule = RouteSettings(
        "lesions", checkpoints[1], everything=True, runtime="torch", unfamiliar=policy, outputs=Outputs(report=False)
    )
    code = predict_folder([rule], [of_noise(tmp_path / "noise.dcm")], tmp_path / "out")
    (row,) = table(tmp_path / "out" / "results.csv")
    assert "unlike those that the model was made on" in row["reason"]
    made = list((tmp_path / "out").glob("*.seg.dcm"))
    if policy == "refuse":
        assert (code, row["state"], made) == (2, "refused", [])
    else:
        assert (code, row["state"], len(made)) == (0, "done", 1)
        assert float(row["unfamiliarity"]) > 1
    assert "unlike those" in capsys.readouterr().err

"""`sonodistill predict`: files in; masks, classes or embeddings and an index out."""

from __future__ import annotations

import csv
import re
import subprocess
import sys

import cv2
import numpy as np
import pytest
from PIL import Image
from pydicom import examples
from typer.testing import CliRunner

from sonodistill.cli import build
from sonodistill.errors import BundleConfigError, WeightsError
from sonodistill.frames import read
from sonodistill.inference.predictor import Predictor

CINE, STILL = examples.get_path("ybr_color"), examples.get_path("rgb_color")


def predict(*arguments):
    """Run the command here; errors come out as they are."""
    done = CliRunner().invoke(build(), ["predict", *map(str, arguments)])
    if done.exception is not None and not isinstance(done.exception, SystemExit):
        raise done.exception
    return done


def index(out):
    return list(csv.DictReader((out / "index.csv").open()))


def test_it_writes_masks_and_an_index_and_goes_on_past_bad_files(models, tmp_path):
    source, out = tmp_path / "in", tmp_path / "out"
    for name in ("a", "b"):
        (source / name).mkdir(parents=True)
        Image.fromarray(np.full((90, 80), 100, np.uint8)).save(source / name / "same.png")
    (source / "bad.png").write_bytes(b"")
    command = [sys.executable, "-m", "sonodistill", "predict", models / "model.onnx", source, "--out", out]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 2 and "bad.png" in done.stderr and "Traceback" not in done.stderr
    rows = index(out)
    assert {row["file"] for row in rows} == {"a/same.png_00000_mask.png", "b/same.png_00000_mask.png"}
    for row in rows:
        mask = cv2.imread(str(out / row["file"]), cv2.IMREAD_UNCHANGED)
        assert mask.shape == (90, 80) and int((mask > 0).sum()) == int(row["area_pixels"])
        assert row["area_mm2"] == "" and row["label"] == "lesion"  # a PNG has no physical scale


def test_a_calibrated_frame_has_an_area_in_square_millimetres(models, tmp_path):
    predict(models / "model.onnx", CINE, "--out", tmp_path)
    rows = index(tmp_path)
    frames = list(Predictor(models / "model.onnx")(read(CINE)))
    assert len(rows) == 30
    for row, prediction in zip(rows, frames, strict=True):
        pixels, spacing = int(row["area_pixels"]), prediction.frame.mm_per_pixel
        assert pixels == prediction.mask.sum() > 0
        assert row["area_mm2"] == ("" if spacing is None else str(round(pixels * spacing[0] * spacing[1], 3)))


@pytest.mark.parametrize("runtime", ["onnxruntime", "openvino"])
def test_the_summary_says_how_fast_it_was_and_by_what(models, tmp_path, runtime):
    done = predict(
        models / "model.onnx", CINE, "--out", tmp_path, "--runtime", runtime, "--threads", 1, "--batch-size", 4
    )
    line = done.stderr.strip().splitlines()[-1]
    line = re.sub(r"\d+\.\d+", "N", line)
    assert line == f"30 frames in N s, N frames/s, by {runtime} (fp32); inference p50 N ms, p95 N ms a batch of 4"


def test_a_second_run_writes_the_same(models, tmp_path):
    for model in ("model.onnx", "encoder.safetensors"):
        folder = tmp_path / model
        contents = []
        for _ in range(2):
            assert predict(models / model, STILL, "--out", folder, "--runtime", "auto").exit_code == 0
            contents.append({file.name: file.read_bytes() for file in sorted(folder.iterdir())})
        assert contents[0] == contents[1] and len(contents[0]) == 2


def test_several_labels_are_several_files_named_by_harmless_words(models, tmp_path):
    predict(models / "two.safetensors", STILL, "--out", tmp_path)
    rows = index(tmp_path)
    assert [row["label"] for row in rows] == ["left/ventricle", "wall"]
    assert [row["file"] for row in rows] == [
        f"{STILL.name}_00000_{name}_mask.png" for name in ("left_ventricle", "wall")
    ]
    assert all((tmp_path / row["file"]).is_file() for row in rows)


def test_a_classifier_writes_its_classes(models, tmp_path):
    predict(models / "classifier.safetensors", CINE, "--out", tmp_path, "--batch-size", 8)
    rows = index(tmp_path)
    assert len(rows) == 30 and [path.name for path in tmp_path.iterdir()] == ["index.csv"]
    for row in rows:
        each = {name: float(row[f"probability_{name}"]) for name in ("normal", "benign", "malignant")}
        assert row["class"] == max(each, key=each.get) and float(row["probability"]) == max(each.values())
        assert sum(each.values()) == pytest.approx(1, abs=1e-5)


def test_an_encoder_writes_embeddings_in_the_order_of_the_index(models, tmp_path):
    predict(models / "encoder.safetensors", CINE, STILL, "--out", tmp_path)
    rows, embeddings = index(tmp_path), np.load(tmp_path / "embeddings.npz")["embeddings"]
    assert embeddings.shape == (31, 512) and embeddings.dtype == np.float32
    assert [int(row["frame"]) for row in rows] == [*range(30), 0] and rows[30]["source"] == str(STILL)
    assert np.isfinite(embeddings).all() and not np.array_equal(embeddings[0], embeddings[30])


def test_an_encoder_that_meets_no_frame_writes_an_empty_array(models, tmp_path):
    (tmp_path / "bad.png").write_bytes(b"")
    assert predict(models / "encoder.safetensors", tmp_path / "bad.png", "--out", tmp_path / "out").exit_code == 2
    assert np.load(tmp_path / "out" / "embeddings.npz")["embeddings"].size == 0


def test_settings_that_cannot_work_are_refused_before_anything_is_written(models, tmp_path):
    out = tmp_path / "out"
    with pytest.raises(BundleConfigError, match="64 x 64 pixels, not 128"):
        predict(models / "model.onnx", STILL, "--out", out, "--size", 128)
    with pytest.raises(WeightsError, match="torch"):
        predict(models / "model.ts", STILL, "--out", out, "--runtime", "openvino")
    with pytest.raises(BundleConfigError, match="by itself"):
        predict(models / "model.onnx", STILL, "igtl://localhost:1", "--out", out)
    with pytest.raises(BundleConfigError, match="segmenter"):
        predict(models / "classifier.safetensors", "device:/dev/video9", "--out", out)
    assert predict(models / "model.onnx", STILL, "--out", out, "--threshold", 2).exit_code == 2
    assert not out.exists()

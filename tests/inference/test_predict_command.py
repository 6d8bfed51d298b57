"""`sonodistill predict`: files in; masks, classes or embeddings and an index out."""

from __future__ import annotations

import csv
import errno
import os
import re
import subprocess
import sys

import cv2
import numpy as np
import pytest
from command_case import run_here
from PIL import Image
from pydicom import examples
from typer.testing import CliRunner

from sonodistill.cli import build
from sonodistill.errors import BundleConfigError, EmptyInputError, WeightsError
from sonodistill.files import write_text
from sonodistill.frames import read
from sonodistill.inference import files as files_module
from sonodistill.inference.files import OutputError, predict_files
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


@pytest.mark.parametrize(
    "option", [["--smooth", "0"], ["--frames", 3], ["--seconds", 1], ["--drop", "none"], ["--reply"], ["--timeout", 5]]
)
def test_a_setting_of_live_sessions_is_refused_without_one(models, tmp_path, option):
    with pytest.raises(BundleConfigError, match=f"{option[0]} is for a live session\n.*--budget-ms"):
        predict(models / "model.onnx", STILL, "--out", tmp_path / "out", *option)


def test_a_batch_size_is_refused_with_a_live_session(models, tmp_path):
    with pytest.raises(BundleConfigError, match="--batch-size is for files"):
        predict(models / "model.onnx", CINE, "--out", tmp_path / "out", "--budget-ms", 100, "--batch-size", 1)


def still(path, side=80):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.full((side, side), 100, np.uint8)).save(path)
    return path


@pytest.fixture(scope="module")
def segmenter(models):
    return Predictor(models / "model.onnx", runtime="onnxruntime", threads=1)


def masks(out):
    return sorted(str(path.relative_to(out)) for path in out.rglob("*.png"))


def test_a_rerun_removes_what_the_old_index_lists_and_nothing_else(segmenter, tmp_path):
    source, out, elsewhere = tmp_path / "in", tmp_path / "out", tmp_path / "elsewhere"
    for name in ("deep/a.png", "b.png"):
        still(source / name)
    assert predict_files(segmenter, [source], out) == 0
    assert masks(out) == ["b.png_00000_mask.png", "deep/a.png_00000_mask.png"]
    kept = [still(out / "own.png"), still(tmp_path / "up_00000_mask.png"), still(elsewhere / "x_00000_mask.png")]
    (out / "link").symlink_to(elsewhere)
    (out / "l_00000_mask.png").symlink_to(kept[2])
    with (out / "index.csv").open("a") as table:
        for name in ("own.png", "../up_00000_mask.png", kept[2], "link/x_00000_mask.png", "l_00000_mask.png"):
            table.write(f"{name},x,0,,0,,lesion\n")
    assert predict_files(segmenter, [source / "b.png"], out) == 0
    assert not (out / "deep/a.png_00000_mask.png").exists() and all(path.is_file() for path in kept)
    assert (out / "l_00000_mask.png").is_symlink()
    assert [row["file"] for row in index(out)] == ["b.png_00000_mask.png"]


def test_a_rerun_that_is_cut_off_leaves_no_index(segmenter, tmp_path, monkeypatch):
    for n in range(3):
        still(tmp_path / "in" / f"{n}.png")
    out = tmp_path / "out"
    predict_files(segmenter, [tmp_path / "in"], out)
    write, left = files_module.write_mask, []

    def cut_off(*arguments):
        left.append((out / "index.csv").exists())
        if len(left) == 2:
            raise KeyboardInterrupt
        write(*arguments)

    monkeypatch.setattr(files_module, "write_mask", cut_off)
    with pytest.raises(KeyboardInterrupt):
        predict_files(segmenter, [tmp_path / "in"], out)
    assert left == [False, False] and not (out / "index.csv").exists()


@pytest.mark.parametrize(
    ("name", "text", "said"),
    [
        ("live.json", "{}", "holds a live session"),
        ("index.csv", "file,source,frame,time_ms,latency_ms,area_pixels,area_mm2,label\n", "holds a live session"),
        ("index.csv", "patient,age\n", "was not written by predict"),
    ],
)
def test_a_folder_of_something_else_is_left_alone(segmenter, tmp_path, name, text, said):
    (tmp_path / name).write_text(text)
    with pytest.raises(OutputError, match=said):
        predict_files(segmenter, [STILL], tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == [name] and (tmp_path / name).read_text() == text


@pytest.mark.parametrize("inside", ["masks", "."])
def test_masks_inside_the_source_folder_are_not_predicted_again(segmenter, tmp_path, inside):
    still(tmp_path / "a.png"), still(tmp_path / "b" / "c.png")
    for _ in range(2):
        assert predict_files(segmenter, [tmp_path], tmp_path / inside) == 0
        assert [row["source"] for row in index(tmp_path / inside)] == [str(tmp_path / n) for n in ("a.png", "b/c.png")]
    (tmp_path / inside / "index.csv").unlink()  # as a run that was killed leaves it
    assert predict_files(segmenter, [tmp_path], tmp_path / inside) == 0
    assert len(index(tmp_path / inside)) == 2
    with pytest.raises(EmptyInputError, match="nothing but earlier results"):
        predict_files(segmenter, [tmp_path / inside / "a.png_00000_mask.png"], tmp_path / inside)
    assert (tmp_path / inside / "a.png_00000_mask.png").exists()


@pytest.mark.skipif(sys.platform != "linux", reason="names are any bytes on Linux only")
def test_file_names_that_are_no_text_or_too_long_cost_at_most_their_file(models, tmp_path):
    source, out = tmp_path / "in", tmp_path / "out"
    still(source / "a.png")
    (source / "a.png").rename(os.fsdecode(os.fsencode(source) + b"/b\xff.png"))
    still(source / ("c" * 245 + ".png")), still(source / "d.png")
    (source / os.fsdecode(b"e\xfe.png")).write_bytes(b"no picture")
    command = [sys.executable, "-m", "sonodistill", "predict", models / "model.onnx", source, "--out", out]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 2 and "Traceback" not in done.stderr, done.stderr
    assert (
        "skipped 2 of 4" in done.stderr and "ccc.png: its masks cannot be written (File name too long)" in done.stderr
    )
    with (out / "index.csv").open(encoding="utf-8", errors="surrogateescape") as table:
        rows = list(csv.DictReader(table))
    assert [os.fsencode(row["source"]).rpartition(b"/")[2] for row in rows] == [b"b\xff.png", b"d.png"]
    assert all((out / row["file"]).is_file() for row in rows)


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT])
def test_a_full_disk_ends_the_run_by_name(segmenter, tmp_path, monkeypatch, number):
    def full(*_):
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(files_module, "write_mask", full)
    with pytest.raises(OutputError, match=re.escape(os.strerror(number))):
        predict_files(segmenter, [CINE, STILL], tmp_path / "out")
    assert list((tmp_path / "out").iterdir()) == []


def test_a_file_where_the_folder_should_be_is_named(models, tmp_path, monkeypatch, capsys):
    file = tmp_path / "afile"
    file.write_text("mine")
    for out in (file, file / "below"):
        code, printed = run_here(monkeypatch, capsys, "predict", models / "model.onnx", STILL, "--out", out)
        assert code == 2 and str(out) in printed and "What to do" in printed
    assert file.read_text() == "mine"


def test_a_path_that_cannot_be_used_is_one_message_and_with_verbose_a_traceback(tmp_path):
    (tmp_path / "afile").write_text("")
    still(tmp_path / "a.png")
    command = ["frames", "export", str(tmp_path / "a.png"), "--out", str(tmp_path / "afile" / "below")]
    for options in ([], ["--verbose"]):
        done = subprocess.run(
            [sys.executable, "-m", "sonodistill", *options, *command], capture_output=True, text=True, timeout=60
        )
        assert done.returncode == 2 and re.search(r"error: .*afile.*: Not a directory", done.stderr)
        assert ("Traceback" in done.stderr) == bool(options)


def test_an_atomic_write_is_flushed_through_a_handle_that_may_write(tmp_path, monkeypatch):
    fcntl = pytest.importorskip("fcntl")
    flush, flushed = os.fsync, []

    def strict(handle):  # as Windows is
        if fcntl.fcntl(handle, fcntl.F_GETFL) & os.O_ACCMODE == os.O_RDONLY:
            raise OSError(errno.EBADF, "Bad file descriptor")
        flushed.append(flush(handle))

    monkeypatch.setattr(os, "fsync", strict)
    write_text(tmp_path / "a.txt", "whole")
    assert (tmp_path / "a.txt").read_text() == "whole" and flushed

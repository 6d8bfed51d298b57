"""Folders give their readable files, and the command line goes on past the bad ones."""

from __future__ import annotations

import csv
import json

import numpy as np
import pytest
from PIL import Image
from typer.testing import CliRunner

from sonodistill.errors import EmptyInputError, SonoDistillError, UnreadableFileError
from sonodistill.frames import find_files
from sonodistill.frames.commands import app

runner = CliRunner()


def touch(path, content: bytes = b"x"):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)
    return path


@pytest.fixture
def clips(tmp_path, factory, speckle):
    """A folder with a good clip, a good image and a truncated one."""
    folder = tmp_path / "clips"
    folder.mkdir()
    item = factory.region(0, 0, 30, 23)
    ds = factory.ultrasound(
        speckle, FrameIncrementPointer=0x00181063, FrameTime="40", SequenceOfUltrasoundRegions=[item]
    )
    factory.save(ds, folder / "clip.dcm")
    Image.fromarray(speckle[0]).save(folder / "still.png")
    data = (folder / "still.png").read_bytes()
    (folder / "torn.png").write_bytes(data[: len(data) // 2])
    return folder


def test_readable_files_are_found_sorted_by_suffix_or_preamble(tmp_path):
    preamble = bytes(128) + b"DICM"
    wanted = [
        touch(tmp_path / "b" / "IM_0001", preamble),
        touch(tmp_path / "b" / "1.2.840.99", preamble),
        touch(tmp_path / "a" / "x.PNG"),
        touch(tmp_path / "v.nii.gz"),
    ]
    touch(tmp_path / "b" / "README")
    touch(tmp_path / "b" / "notes.txt")
    touch(tmp_path / "DICOMDIR", preamble)
    touch(tmp_path / ".hidden" / "a.png")
    touch(tmp_path / ".a.png")
    assert find_files(tmp_path) == sorted(wanted)
    assert find_files(wanted[2]) == [wanted[2]]


def test_links_that_leave_the_folder_are_not_followed(tmp_path):
    outside = touch(tmp_path / "outside" / "a.png")
    inside = touch(tmp_path / "in" / "b.png")
    (tmp_path / "in" / "link.png").symlink_to(outside)
    (tmp_path / "in" / "folder").symlink_to(outside.parent)
    assert find_files(tmp_path / "in") == [inside]


def test_an_empty_folder_says_what_to_do(tmp_path):
    with pytest.raises(EmptyInputError, match="What to do"):
        find_files(tmp_path)
    with pytest.raises(UnreadableFileError, match="no such file or folder"):
        find_files(tmp_path / "missing")


def test_info_lists_files_and_reports_the_skipped(clips):
    result = runner.invoke(app, ["info", str(clips), "--json"])
    assert result.exit_code == 2
    clip, still = json.loads(result.stdout)
    assert clip["file"] == str(clips / "clip.dcm")
    assert (clip["kind"], clip["frames"], clip["rows"], clip["columns"], clip["step_ms"]) == ("dicom", 4, 24, 31, 40.0)
    assert (clip["row_mm"], clip["column_mm"]) == pytest.approx((0.5, 0.5))
    assert still["calibration_note"] == "image files carry no physical scale" and still["row_mm"] is None
    assert "torn.png" in result.stderr and "1 skipped" in result.stderr


def test_info_prints_a_table_without_patient_data(clips):
    result = runner.invoke(app, ["info", str(clips / "clip.dcm")])
    assert result.exit_code == 0
    assert "dicom" in result.stdout and "24 x 31" in result.stdout
    assert "Secret" not in result.output and "SECRET" not in result.output


def test_export_writes_every_nth_frame_and_an_index(clips, tmp_path, speckle):
    out = tmp_path / "out"
    result = runner.invoke(app, ["export", str(clips), "--out", str(out), "--every", "2"])
    assert result.exit_code == 2 and "torn.png" in result.stderr
    with (out / "index.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [(row["source"], row["frame"], row["time_ms"]) for row in rows] == [
        (str(clips / "clip.dcm"), "0", "0.000"),
        (str(clips / "clip.dcm"), "2", "80.000"),
        (str(clips / "still.png"), "0", ""),
    ]
    assert [row["row_mm"] for row in rows] == ["0.5", "0.5", ""]
    assert sorted(path.name for path in out.iterdir()) == sorted([*(row["file"] for row in rows), "index.csv"])
    for row, image in zip(rows, speckle[[0, 2, 0]], strict=True):
        np.testing.assert_array_equal(np.array(Image.open(out / row["file"])), image)


def test_export_of_good_files_ends_with_success(clips, tmp_path):
    result = runner.invoke(app, ["export", str(clips / "still.png"), "--out", str(tmp_path / "out")])
    assert result.exit_code == 0 and result.stderr == ""


def test_export_refuses_a_folder_in_use(clips, tmp_path):
    result = runner.invoke(app, ["export", str(clips), "--out", str(clips)])
    assert isinstance(result.exception, SonoDistillError) and "not empty" in str(result.exception)


def test_a_missing_path_is_skipped_and_the_others_are_read(clips, tmp_path):
    result = runner.invoke(app, ["info", str(tmp_path / "nowhere"), str(clips / "still.png"), "--json"])
    assert result.exit_code == 2
    assert len(json.loads(result.stdout)) == 1 and "nowhere" in result.stderr


@pytest.mark.parametrize("command", ["info", "export"])
def test_help_has_an_example(command):
    assert "Example:" in runner.invoke(app, [command, "--help"]).stdout


@pytest.mark.parametrize("command", ["info", "export"])
def test_help_names_the_planes_that_are_interpolated(command):
    text = runner.invoke(app, [command, "--help"]).stdout
    assert "rotational:N" in text and "oblique:TILT[,TURN]" in text

"""The files in which labels come and go, and those that are kept for a while."""

from __future__ import annotations

import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk

pytest.importorskip("monailabel", reason="monailabel is not installed; `pip install sonodistill[label]`")

from app_case import APP

sys.path.insert(0, str(APP))

from lib.files import read_labels, write_nrrd
from lib.shelf import Shelf
from lib.targets import received
from sonodistill.annotate.errors import (
    InvalidLabelError,
    TooLargeError,
)
from sonodistill.annotate.exchange.nifti_file import Geometry

# Files


@pytest.mark.parametrize("compress", [True, False])
def test_nrrd_lies_where_it_is_said_to(tmp_path, compress: bool) -> None:
    voxels = np.random.default_rng(0).integers(0, 255, (3, 5, 7), np.uint8)
    turned = ((0.0, -1.0, 0.0), (1.0, 0.0, 0.0), (0.0, 0.0, 1.0))
    at = Geometry((0.5, 0.25, 2.0), (1.0, -2.0, 3.0), turned, millimetres=True)
    write_nrrd(tmp_path / "a.nrrd", iter(voxels), voxels.shape, at, compress=compress)
    image = sitk.ReadImage(str(tmp_path / "a.nrrd"))
    assert np.array_equal(sitk.GetArrayFromImage(image), voxels)
    assert (image.GetSpacing(), image.GetOrigin()) == ((0.5, 0.25, 2.0), (1.0, -2.0, 3.0))
    assert image.GetDirection() == tuple(value for row in turned for value in row)
    assert np.array_equal(read_labels(tmp_path / "a.nrrd", voxels.shape), voxels)


@pytest.mark.parametrize("suffix", [".nrrd", ".nii", ".nii.gz", ".mha"])
@pytest.mark.parametrize("kind", [np.uint8, np.int16, np.float32])
def test_labels_are_read_in_any_form_and_type(tmp_path, suffix: str, kind: type) -> None:
    labels = np.random.default_rng(0).integers(0, 3, (4, 6, 5)).astype(kind)
    sitk.WriteImage(sitk.GetImageFromArray(labels), str(tmp_path / f"a{suffix}"))
    assert np.array_equal(read_labels(tmp_path / f"a{suffix}", (4, 6, 5)), labels)
    with pytest.raises(InvalidLabelError, match="4 x 6 x 5"):
        read_labels(tmp_path / f"a{suffix}", (4, 5, 6))


@pytest.mark.parametrize("suffix", [".nrrd", ".nii.gz", ".mha"])
def test_labels_that_end_early_are_refused(tmp_path, suffix: str) -> None:
    labels = np.random.default_rng(0).integers(0, 2, (4, 60, 50), np.uint8)
    sitk.WriteImage(sitk.GetImageFromArray(labels), str(tmp_path / f"a{suffix}"), useCompression=True)
    whole = (tmp_path / f"a{suffix}").read_bytes()
    (tmp_path / f"b{suffix}").write_bytes(whole[: len(whole) * 2 // 3])
    with pytest.raises(InvalidLabelError):
        read_labels(tmp_path / f"b{suffix}", (4, 60, 50))


@pytest.mark.parametrize("line", ["data file: other.raw", "datafile: other.raw", "data file: LIST", "Data File: o.raw"])
def test_a_header_that_takes_its_values_from_elsewhere_is_refused(tmp_path, line: str) -> None:
    (tmp_path / "other.raw").write_bytes(bytes(30))
    header = "NRRD0004\ntype: uint8\ndimension: 3\nsizes: 5 6 1\nencoding: raw\n"
    (tmp_path / "a.nrrd").write_text(f"{header}{line}\n\n")
    with pytest.raises(InvalidLabelError, match="another file"):
        read_labels(tmp_path / "a.nrrd", (1, 6, 5))
    meta = "ObjectType = Image\nNDims = 3\nDimSize = 5 6 1\nElementType = MET_UCHAR\nElementDataFile = other.raw\n"
    (tmp_path / "a.mha").write_text(meta)
    with pytest.raises(InvalidLabelError, match="another file"):
        read_labels(tmp_path / "a.mha", (1, 6, 5))


@pytest.mark.parametrize("far", [False, True])
@pytest.mark.parametrize("line", ["ElementDataFile = {}", "ElementDataFile: {}", " ElementDataFile = {}"])
def test_no_header_of_a_label_reads_another_file_of_this_machine(tmp_path, line: str, far: bool) -> None:
    (tmp_path / "secret.raw").write_bytes(bytes([0, 1] * 15))
    meta = "ObjectType = Image\nComment = ElementDataFile = LOCAL\nNDims = 2\nDimSize = 5 6\nElementType = MET_UCHAR\n"
    many = "".join(f"Comment = {'x' * 1000}\n" for _ in range(70 * far))
    (tmp_path / "a.mha").write_text(f"{meta}{many}{line.format(tmp_path / 'secret.raw')}\n")
    nrrd = "NRRD0004\ntype: uint8\ndimension: 2\nsizes: 5 6\nencoding: raw\n" + many.replace("Comment = ", "# ")
    (tmp_path / "a.nrrd").write_text(f"{nrrd}data file: {tmp_path / 'secret.raw'}\n\n")
    for name in ("a.mha", "a.nrrd"):
        with pytest.raises(InvalidLabelError):
            read_labels(tmp_path / name, (1, 6, 5))


def test_labels_that_unpack_to_much_are_refused_unread(tmp_path, monkeypatch) -> None:
    monkeypatch.setattr("lib.files.MAX_HELD", 64_000)
    for kind, fits in ((np.uint8, True), (np.float64, False)):
        sitk.WriteImage(sitk.GetImageFromArray(np.ones((4, 50, 60), kind)), str(tmp_path / "a.nrrd"), True)
        if fits:
            assert read_labels(tmp_path / "a.nrrd", (4, 50, 60)).sum() == 12_000
        else:
            with pytest.raises(TooLargeError):
                read_labels(tmp_path / "a.nrrd", (4, 50, 60))


def test_only_files_that_this_server_wrote_are_received(tmp_path, monkeypatch) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    for name in ("tmpabc.png", "sonodistill-1/upload.png", "other/secret.png", "sessions/1/a.png"):
        (tmp_path / name).parent.mkdir(exist_ok=True, parents=True)
        (tmp_path / name).write_bytes(b"x")
    (tmp_path / "tmplink.png").symlink_to(tmp_path / "other" / "secret.png")
    assert received(str(tmp_path / "tmpabc.png")) and received(str(tmp_path / "sonodistill-1" / "upload.png"))
    assert received(str(tmp_path / "sessions/1/a.png"), tmp_path / "sessions")
    for text in (
        tmp_path / "other" / "secret.png",
        tmp_path / "tmplink.png",
        tmp_path / "tmpabc.png" / ".." / "other" / "secret.png",
        tmp_path / "sonodistill-1",
        "/etc/passwd",
        "tmpabc.png",
        "lesion",
        "/\0",
        None,
        3,
    ):
        assert received(str(text) if isinstance(text, Path) else text, tmp_path / "sessions") is None


def test_the_shelf_forgets_what_was_not_asked_for(tmp_path, monkeypatch) -> None:
    monkeypatch.setattr("lib.shelf._RECENT", 0.0)
    shelf, made = Shelf(tmp_path / "shelf", most_files=3), []

    def make(path: Path) -> None:
        made.append(path.name)
        path.write_bytes(b"x" * 10)

    for name in ("a", "b", "c", "a", "d"):
        assert shelf.file("key", name, make).read_bytes() == b"x" * 10
        time.sleep(0.01)
    assert made == ["a", "b", "c", "d"]
    assert {path.name for path in (tmp_path / "shelf").rglob("*") if path.is_file()} == {"a", "c", "d"}
    again = Shelf(tmp_path / "shelf", most_bytes=25)
    again.file("key", "e", make)
    assert len([path for path in (tmp_path / "shelf").rglob("*") if path.is_file()]) == 2

"""The frame pack: any files in, gray frames out, nothing lost without a word."""

from __future__ import annotations

import shutil

import numpy as np
import pyarrow.parquet as pq
import pytest
from PIL import Image
from pydicom import examples
from typer.testing import CliRunner

from sonodistill import frames
from sonodistill.errors import EmptyInputError, UnreadableFileError
from sonodistill.frames.commands import app as frames_app
from sonodistill_training.corpus.pack import FramePack, build_pack, shrink


@pytest.fixture
def folder(tmp_path):
    source = tmp_path / "in"
    source.mkdir()
    for name in ("ybr_color", "rgb_color", "jpeg2k"):
        shutil.copy(examples.get_path(name), source)
    return source


def test_every_frame_of_every_file_is_packed_in_order(folder, tmp_path):
    pack, skipped = build_pack([folder], tmp_path / "pack", short_side=100)
    expected = [shrink(frame.image, 100) for file in frames.find_files(folder) for frame in frames.read(file)]
    assert len(pack) == len(expected) == 32 and not skipped
    assert all(np.array_equal(pack[i], image) for i, image in enumerate(expected))
    assert {min(image.shape) for image in expected} == {100}


def test_the_index_says_where_each_frame_comes_from(folder, tmp_path):
    build_pack([folder], tmp_path / "pack")
    rows = pq.read_table(tmp_path / "pack" / "frames.parquet").to_pylist()
    cine = [row for row in rows if row["source"].endswith(examples.get_path("ybr_color").name)]
    assert [row["frame"] for row in cine] == list(range(30))
    assert (cine[0]["source_height"], cine[0]["source_width"]) == (240, 320)


def test_a_bad_file_is_skipped_with_its_reason_also_when_the_pack_is_used_again(folder, tmp_path):
    (folder / "broken.png").write_bytes(b"")
    for _ in range(2):
        pack, skipped = build_pack([folder], tmp_path / "pack")
        assert len(pack) == 32
        assert [(item.path.name, bool(item.reason)) for item in skipped] == [("broken.png", True)]


def test_unchanged_sources_are_not_read_again_and_changed_ones_are(folder, tmp_path):
    first, _ = build_pack([folder], tmp_path / "pack")
    stamp = (tmp_path / "pack" / "frames.bin").stat().st_mtime_ns
    build_pack([folder], tmp_path / "pack")
    assert (tmp_path / "pack" / "frames.bin").stat().st_mtime_ns == stamp
    Image.new("L", (64, 64), 9).save(folder / "more.png")
    second, _ = build_pack([folder], tmp_path / "pack")
    assert len(second) == len(first) + 1 and second.sha256 != first.sha256


def test_the_same_frames_have_the_same_hash(folder, tmp_path):
    assert build_pack([folder], tmp_path / "a")[0].sha256 == build_pack([folder], tmp_path / "b")[0].sha256


def test_only_bad_files_is_an_error(tmp_path):
    (tmp_path / "a.png").write_bytes(b"")
    with pytest.raises(EmptyInputError):
        build_pack([tmp_path / "a.png"], tmp_path / "pack")
    assert not (tmp_path / "pack" / "frames.parquet").exists()


def test_a_shortened_pack_is_refused(folder, tmp_path):
    build_pack([folder], tmp_path / "pack")
    data = (tmp_path / "pack" / "frames.bin").read_bytes()
    (tmp_path / "pack" / "frames.bin").write_bytes(data[:-1])
    with pytest.raises(UnreadableFileError, match="bytes"):
        FramePack(tmp_path / "pack")


def test_a_folder_with_an_index_gives_its_images_and_not_its_masks(shared, tmp_path):
    pack, _ = build_pack([shared / "data" / "frames" / "aul"], tmp_path / "pack", short_side=64)
    assert len(pack) == 735


def test_exported_frames_can_be_packed(folder, tmp_path):
    CliRunner().invoke(frames_app, ["export", str(folder), "--out", str(tmp_path / "export")])
    pack, skipped = build_pack([tmp_path / "export"], tmp_path / "pack", short_side=100)
    direct, _ = build_pack([folder], tmp_path / "direct", short_side=100)
    assert len(pack) == len(direct) == 32 and not skipped
    assert pack.sha256 == direct.sha256


def test_images_are_never_enlarged():
    small = np.zeros((40, 50), np.uint8)
    assert shrink(small, 256) is small

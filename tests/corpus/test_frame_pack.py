"""The frame pack: any files in, gray frames out, nothing lost without a word."""

from __future__ import annotations

import re
import shutil

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image
from pydicom import examples
from typer.testing import CliRunner

from sonodistill import frames
from sonodistill.errors import DatasetError, EmptyInputError, UnreadableFileError
from sonodistill.frames.commands import app as frames_app
from sonodistill_training.corpus.manifest import FRAME_COLUMNS, MANIFEST, table, write_table
from sonodistill_training.corpus.pack import SHARD, build_pack, open_corpus, shrink
from sonodistill_training.corpus.shards import Corpus


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


def test_the_manifest_says_which_frame_of_its_source_each_one_is(folder, tmp_path):
    build_pack([folder], tmp_path / "pack")
    rows = pq.read_table(tmp_path / "pack" / MANIFEST).to_pylist()
    sources = [row["source"] for row in rows]
    cine = [row for row in rows if sources.count(row["source"]) == 30]
    assert [row["frame"] for row in cine] == list(range(30))
    assert (cine[0]["source_height"], cine[0]["source_width"]) == (240, 320)
    assert len({row["id"] for row in rows}) == 32


def test_no_path_of_a_source_is_stored(folder, tmp_path):
    (folder / "MEIER_ANNA.png").write_bytes(b"")
    Image.new("L", (64, 64), 9).save(folder / "SCHULZE_BERT.png")
    build_pack([folder], tmp_path / "pack")
    manifest = pq.read_table(tmp_path / "pack" / MANIFEST)
    stored = repr(manifest.to_pylist()) + repr(manifest.schema.metadata)
    assert not re.search("MEIER|SCHULZE", stored) and str(folder) not in stored


def test_a_bad_file_is_skipped_with_its_reason_also_when_the_pack_is_used_again(folder, tmp_path):
    (folder / "broken.png").write_bytes(b"")
    for _ in range(2):
        pack, skipped = build_pack([folder], tmp_path / "pack")
        assert len(pack) == 32
        assert [(item.path.name, bool(item.reason)) for item in skipped] == [("broken.png", True)]


def test_unchanged_sources_are_not_read_again_and_changed_ones_are(folder, tmp_path):
    first, _ = build_pack([folder], tmp_path / "pack")
    stamp = (tmp_path / "pack" / SHARD).stat().st_mtime_ns
    build_pack([folder], tmp_path / "pack")
    assert (tmp_path / "pack" / SHARD).stat().st_mtime_ns == stamp
    Image.new("L", (64, 64), 9).save(folder / "more.png")
    second, _ = build_pack([folder], tmp_path / "pack")
    assert len(second) == len(first) + 1 and second.sha256 != first.sha256


def test_the_same_frames_have_the_same_hash(folder, tmp_path):
    assert build_pack([folder], tmp_path / "a")[0].sha256 == build_pack([folder], tmp_path / "b")[0].sha256


def test_only_bad_files_is_an_error(tmp_path):
    (tmp_path / "a.png").write_bytes(b"")
    with pytest.raises(EmptyInputError):
        build_pack([tmp_path / "a.png"], tmp_path / "pack")
    assert not (tmp_path / "pack" / MANIFEST).exists()


def test_a_shortened_pack_is_refused(folder, tmp_path):
    build_pack([folder], tmp_path / "pack")
    data = (tmp_path / "pack" / SHARD).read_bytes()
    (tmp_path / "pack" / SHARD).write_bytes(data[:-1])
    with pytest.raises(UnreadableFileError, match="not whole"):
        Corpus(tmp_path / "pack")


def test_a_pack_of_the_first_release_is_refused_by_name(tmp_path):
    pq.write_table(
        pa.table({"offset": [0]}).replace_schema_metadata({"schema_version": "1"}), tmp_path / "frames.parquet"
    )
    (tmp_path / "frames.bin").write_bytes(b"\0")
    with pytest.raises(UnreadableFileError, match="version 1; this release reads 2(.|\n)*sonodistill pack"):
        open_corpus(tmp_path, tmp_path / "out")


def test_a_pack_of_the_first_release_is_replaced_where_a_new_one_is_made(folder, tmp_path):
    out = tmp_path / "pack"
    out.mkdir()
    for name in ("frames.parquet", "frames.bin"):
        (out / name).write_bytes(b"old")
    assert len(open_corpus(folder, out)) == 32
    assert sorted(path.name for path in out.iterdir() if path.name[0] != ".") == [MANIFEST, "shards"]


def test_a_corpus_that_was_built_another_way_is_not_packed_over(folder, tmp_path):
    build_pack([folder], tmp_path / "pack")
    rows = pq.read_table(tmp_path / "pack" / MANIFEST).to_pylist()
    write_table(tmp_path / "pack" / MANIFEST, table(rows, FRAME_COLUMNS), {"sha256": "", "short_side": "256"})
    with pytest.raises(DatasetError, match="no pack"):
        build_pack([folder], tmp_path / "pack")
    assert len(Corpus(tmp_path / "pack")) == 32


def test_a_corpus_is_opened_where_it_lies(folder, tmp_path):
    build_pack([folder], tmp_path / "pack")
    assert open_corpus(str(tmp_path / "pack"), tmp_path / "out").location == str(tmp_path / "pack")
    assert open_corpus((tmp_path / "pack").as_uri(), tmp_path / "out").streamed
    assert not (tmp_path / "out").exists()


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

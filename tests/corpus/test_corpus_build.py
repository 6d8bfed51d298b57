"""A build from every kind of file, on real workers: what is kept, what is refused, and how it is written."""

from __future__ import annotations

import hashlib
import json
import os
from collections import defaultdict

import cv2
import numpy as np
import pytest

from sonodistill.errors import EmptyInputError, SonoDistillError
from sonodistill_training.corpus.shards import Corpus
from sonodistill_training.corpus.splits import read_split

STORED = ("kept", "colour_doppler", "duplicate")
PROOF = ("manifest.parquet", "summary.json", "splits.json")


def proof(corpus):
    """The bytes by which two builds are the same."""
    return {name: hashlib.sha256((corpus / name).read_bytes()).hexdigest() for name in PROOF}


def parts(corpus):
    """When each part of the manifest was written."""
    return {path.name: path.stat().st_mtime_ns for path in (corpus / "parts").iterdir()}


# What is kept


def test_kept_frames_are_gray_small_and_lie_as_the_manifest_says(built):
    corpus = Corpus(built.folder)
    rows = [row for row in built.frames if row["status"] == "kept"]
    assert len(corpus) == len(rows) > 8
    for index, row in enumerate(rows):
        image = corpus[index]
        assert image.dtype == np.uint8
        assert image.shape == (row["height"], row["width"])
        assert min(image.shape) <= 256
        assert hashlib.sha256(image).hexdigest() == row["pixels_sha256"]


def test_nothing_is_stored_outside_of_the_sector(built):
    corpus = Corpus(built.folder)
    rows = [row for row in built.frames if row["status"] == "kept"]
    for index, row in enumerate(rows):
        image, outline = corpus[index], np.float32(row["sector_outline"]).reshape(-1, 1, 2)
        inside = np.zeros(image.shape, np.uint8)
        cv2.fillPoly(inside, [np.rint(outline).astype(np.int32)], 1)
        # The outline is rounded to a tenth of a pixel, and filled to the nearest one.
        assert not image[cv2.dilate(inside, np.ones((3, 3), np.uint8)) == 0].any()


@pytest.mark.parametrize(
    ("file", "status"),
    [
        ("still_0.png", "kept"),
        ("screen_1.png", "kept"),
        ("calibrated.dcm", "kept"),
        ("volume.nrrd", "kept"),
        ("photo_0.jpg", "not_ultrasound"),
        ("photo_1.jpg", "not_ultrasound"),
        ("blank.png", "blank"),
        ("corrupt.png", "corrupt"),
        ("truncated.dcm", "corrupt"),
    ],
)
def test_each_kind_of_file_ends_where_it_belongs(built, file, status):
    rows = built.of(file)
    assert rows, "every file has a row"
    assert {row["status"] for row in rows} <= {status, "duplicate"}
    assert all(row["reason"] for row in rows if row["status"] != "kept")


def test_a_page_of_text_is_refused(built):
    assert {row["status"] for row in built.of("text.png")} <= {"blank", "not_ultrasound", "no_sector", "too_small"}


def test_a_refused_file_can_be_looked_at_but_not_read(built):
    for name in ("photo_0.jpg", "text.png"):
        [row] = built.of(name)
        small = cv2.imdecode(np.frombuffer(row["thumbnail"], np.uint8), cv2.IMREAD_UNCHANGED)
        assert max(small.shape) <= 40
        assert row["shard"] is None


def test_a_cine_gives_frames_that_differ(built):
    rows = built.of("cine.dcm")
    assert 1 <= len(rows) < 24
    assert all(row["status"] in ("kept", "duplicate") for row in rows)
    times = [row["time_ms"] for row in rows]
    assert times == sorted(times)


def test_the_counts_of_files_add_up(built):
    for file in built.files:
        assert file["frames"] == file["kept"] + file["redundant"] + file["refused"], file
    assert sum(file["kept"] for file in built.files) == sum(row["status"] in STORED for row in built.frames)
    summary = json.loads((built.folder / "summary.json").read_text())
    assert summary["files"] == len(built.files)
    assert summary["frames_read"] == sum(file["frames"] for file in built.files)
    assert sum(summary["frames"].values()) == len(built.frames)


def test_a_file_is_known_by_its_bytes(built, clinic):
    known = {hashlib.sha256(path.read_bytes()).hexdigest(): path for path in clinic.rglob("*") if path.is_file()}
    assert {file["source_sha256"] for file in built.files} == set(known)
    for file in built.files:
        assert file["bytes"] == known[file["source_sha256"]].stat().st_size


def test_millimetres_are_those_of_the_stored_pixel(built):
    [row] = built.of("calibrated.dcm")
    top, left, bottom, right = row["crop"]
    assert row["row_mm"] * row["height"] == pytest.approx(0.5 * (bottom - top), rel=1e-6)
    assert row["column_mm"] * row["width"] == pytest.approx(0.5 * (right - left), rel=1e-6)
    assert row["row_mm"] > 0.5


def test_slices_of_a_volume_have_the_spacing_of_its_rows_and_columns(built):
    row = built.of("volume.nrrd")[0]
    assert row["cut"] == "0"
    assert (row["row_mm"], row["column_mm"]) == pytest.approx((0.4, 0.3))


def test_what_is_not_calibrated_says_why(built):
    [row] = built.of("still_0.png")
    assert row["row_mm"] is None
    assert row["calibration"]


def test_a_file_that_cannot_be_read_makes_the_exit_code_two(built):
    assert built.code == 2
    assert "2 files could not be read" in built.printed


# Splits


def test_no_group_is_divided_and_the_manifest_agrees_with_the_file(built):
    split = read_split(built.folder / "splits.json")
    of_group = defaultdict(set)
    for row in built.frames:
        if row["status"] == "kept":
            of_group[row["group"]].add(row["split"])
            assert split.assignment[row["group"]] == row["split"]
    assert all(len(found) == 1 for found in of_group.values())
    assert set(split.assignment) == set(of_group)


def test_files_of_a_patient_are_one_group(built):
    rows = built.of("calibrated.dcm")
    assert rows[0]["group"] != rows[0]["source"], "named after the patient, not the file"


def test_groups_of_an_index_stay_together(corpus_of, stills, tmp_path):
    folder = stills(tmp_path / "set", range(8))
    lines = ["file,group,label", *(f"{seed}.png,case {seed // 4},{'a' if seed % 2 else ''}" for seed in range(8))]
    (folder / "index.csv").write_text("\n".join(lines) + "\n")
    found = corpus_of(tmp_path / "corpus", f"mine={folder}", fractions=(0.5, 0.5, 0.0))
    of_group = defaultdict(set)
    for row in found.frames:
        of_group[row["group"]].add(row["split"])
    assert sorted(map(len, of_group.values())) == [1, 1]
    assert {row["label"] for row in found.frames} == {"", "a"}


# The same again


def test_a_second_run_reads_nothing_and_writes_the_same(built, clinic, key_file, command):
    before, written = proof(built.folder), parts(built.folder)
    ran = command("corpus", "build", clinic, "--out", "corpus", "--key", key_file, cwd=built.folder.parent)
    assert ran.returncode == 2
    assert proof(built.folder) == before
    assert parts(built.folder) == written


def test_one_worker_a_scheduler_and_a_local_cluster_build_the_same(built, clinic, corpus_of, tmp_path):
    shared = corpus_of(tmp_path / "shared", clinic)
    assert proof(shared.folder) == proof(built.folder)
    before = dict(os.environ)
    alone = corpus_of(tmp_path / "alone", clinic, scheduler=None, workers=1)
    assert proof(alone.folder) == proof(built.folder)
    assert dict(os.environ) == before, "what follows in this process computes as before"


def test_the_order_of_the_sources_does_not_matter(corpus_of, stills, tmp_path):
    sources = [f"{name}={stills(tmp_path / name, seeds)}" for name, seeds in (("a", range(2)), ("b", range(2, 4)))]
    first = corpus_of(tmp_path / "first", *sources)
    assert proof(corpus_of(tmp_path / "second", *sources[::-1]).folder) == proof(first.folder)


def test_a_new_file_touches_one_batch(corpus_of, stills, tmp_path):
    sources = [f"{name}={stills(tmp_path / name, range(n, n + 2))}" for n, name in enumerate("abc")]
    out = tmp_path / "corpus"
    corpus_of(out, *sources)
    before = parts(out)
    stills(tmp_path / "b", range(50, 51))
    found = corpus_of(out, *sources)
    after = parts(out)
    assert len(found.files) == 7
    assert len(before.items() & after.items()) == 4, "two of three batches, each with its frames and its files"
    assert len(after) == 6, "nothing of the earlier batch is left"
    assert {f"{name.split('.')[0]}.arrow" for name in after} == {path.name for path in (out / "shards").iterdir()}


def test_a_folder_has_one_name_however_it_is_spelled(corpus_of, stills, tmp_path, monkeypatch):
    stills(tmp_path / "scans", range(2))
    first = corpus_of(tmp_path / "first", tmp_path / "scans")
    monkeypatch.chdir(tmp_path / "scans")
    assert proof(corpus_of(tmp_path / "second", ".").folder) == proof(first.folder)


def test_two_builds_in_one_scheduler_do_not_take_each_others_batches(corpus_of, stills, tmp_path):
    """The same files into two folders at the same time."""
    from concurrent.futures import ThreadPoolExecutor

    folder = stills(tmp_path / "scans", range(6))
    with ThreadPoolExecutor(2) as pool:
        one, two = pool.map(lambda name: corpus_of(tmp_path / name, folder), ("one", "two"))
    assert proof(one.folder) == proof(two.folder)
    assert len(Corpus(one.folder)) == len(Corpus(two.folder)) == 6


# What cannot be built


def test_a_folder_is_built_in_by_one_build_at_a_time(corpus_of, stills, tmp_path):
    from filelock import FileLock

    out = tmp_path / "corpus"
    out.mkdir()
    with FileLock(out / ".lock"), pytest.raises(SonoDistillError, match="another build works in this folder"):
        corpus_of(out, stills(tmp_path / "scans", range(1)))


def test_a_corpus_of_nothing_is_refused_and_says_what_was_found(corpus_of, tmp_path):
    folder = tmp_path / "scans"
    folder.mkdir()
    cv2.imwrite(str(folder / "black.png"), np.zeros((200, 200), np.uint8))
    with pytest.raises(EmptyInputError, match="not one frame is worth keeping: 1 blank"):
        corpus_of(tmp_path / "corpus", folder)
    assert not (tmp_path / "corpus" / "manifest.parquet").exists()

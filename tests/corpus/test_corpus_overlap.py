"""Frames that a corpus holds twice, or shares with an evaluation set, are found across files, names and data sets."""

from __future__ import annotations

import json
import shutil

import cv2
import numpy as np
import pytest

from sonodistill_training.corpus.leakage import LeakageError
from sonodistill_training.corpus.simulator import simulate_frame
from sonodistill_training.corpus.splits import read_split

CHANGES = {
    "encoded": lambda image: image,
    "halved": lambda image: cv2.resize(image, None, fx=0.6, fy=0.6, interpolation=cv2.INTER_AREA),
    "enlarged": lambda image: cv2.resize(image, None, fx=1.3, fy=1.3, interpolation=cv2.INTER_CUBIC),
    "brighter": lambda image: np.clip(image.astype(np.float32) * 1.25, 0, 255).astype(np.uint8),
    "darker": lambda image: (image * 0.75).astype(np.uint8),
}


def image(seed):
    return simulate_frame(seed, size=(300, 380)).image


def copies(folder, change):
    """Copies of frames 0 to 3 under other names, and a frame of its own."""
    folder.mkdir(parents=True)
    for seed in range(4):
        cv2.imwrite(str(folder / f"copy{seed}.jpg"), change(image(seed)), [cv2.IMWRITE_JPEG_QUALITY, 60])
    cv2.imwrite(str(folder / "own.png"), image(1000 + sum(map(ord, folder.name))))
    return folder


@pytest.fixture(scope="module")
def originals(tmp_path_factory):
    folder = tmp_path_factory.mktemp("sets") / "originals"
    folder.mkdir()
    for seed in range(10):
        cv2.imwrite(str(folder / f"{seed}.png"), image(seed))
    return folder


@pytest.fixture(scope="module")
def with_copies(originals, corpus_of, tmp_path_factory):
    """A corpus of the originals and of a data set of copies for each change."""
    folder = tmp_path_factory.mktemp("copies")
    changed = [f"{name}={copies(folder / name, change)}" for name, change in CHANGES.items()]
    return corpus_of(folder / "corpus", f"originals={originals}", *changed)


def test_changed_copies_under_other_names_are_kept_once(with_copies):
    by_id = {row["id"]: row for row in with_copies.frames}
    kept = [row for row in with_copies.frames if row["status"] == "kept"]
    assert len(kept) == 10 + len(CHANGES), "ten originals and a frame of its own in each set"
    for row in with_copies.frames:
        assert row["status"] in ("kept", "duplicate")
        if row["status"] == "duplicate":
            assert by_id[row["duplicate_of"]]["status"] == "kept"


def test_the_larger_copy_stays(with_copies):
    by_id = {row["id"]: row for row in with_copies.frames}
    for row in with_copies.frames:
        if row["status"] == "duplicate":
            stays = by_id[row["duplicate_of"]]
            assert stays["height"] * stays["width"] >= row["height"] * row["width"]


def test_duplicates_stay_when_asked_for(originals, corpus_of, tmp_path):
    doubled = copies(tmp_path / "doubled", CHANGES["encoded"])
    found = corpus_of(tmp_path / "corpus", f"originals={originals}", f"doubled={doubled}", duplicates=False)
    assert {row["status"] for row in found.frames} == {"kept"}


@pytest.fixture(scope="module")
def exam(tmp_path_factory):
    """An evaluation set that shows four of the originals, two of them mirrored."""
    folder = tmp_path_factory.mktemp("sets") / "exam"
    folder.mkdir()
    for seed in range(4):
        shown = image(seed)[:, ::-1] if seed % 2 else image(seed)
        cv2.imwrite(str(folder / f"q{seed}.jpg"), shown, [cv2.IMWRITE_JPEG_QUALITY, 70])
    for seed in range(500, 504):
        cv2.imwrite(str(folder / f"q{seed}.png"), image(seed))
    return folder


def test_frames_of_an_evaluation_set_fail_the_build(originals, exam, corpus_of, tmp_path):
    with pytest.raises(LeakageError, match="4 frames of the corpus show .*exam: 4 frames"):
        corpus_of(tmp_path / "corpus", f"mine={originals}", evaluation=[f"exam={exam}"])
    assert not (tmp_path / "corpus" / "manifest.parquet").exists(), "there is no corpus to train on by mistake"


def test_a_leak_ends_the_command_with_the_name_of_the_set(originals, exam, command, scheduler, key_file, tmp_path):
    sources = [f"mine={originals}", "--evaluation", f"exam={exam}"]
    more = ["--out", "corpus", "--key", key_file, "--scheduler", scheduler]
    ran = command("corpus", "build", *sources, *more, cwd=tmp_path)
    assert ran.returncode == 2
    assert "exam: 4 frames" in ran.stderr
    assert "--on-leak drop" in ran.stderr
    assert "Traceback" not in ran.stderr


def test_leaks_are_dropped_when_asked(originals, exam, corpus_of, tmp_path):
    found = corpus_of(tmp_path / "corpus", f"mine={originals}", evaluation=[f"exam={exam}"], on_leak="drop")
    left = [row for row in found.frames if row["status"] == "leak"]
    assert len(left) == 4
    assert all(row["reason"] and row["duplicate_of"] for row in left)
    assert sum(row["status"] == "kept" for row in found.frames) == 6
    in_splits = read_split(found.folder / "splits.json").assignment
    assert not in_splits.keys() & {row["group"] for row in left}
    assert json.loads((found.folder / "summary.json").read_text())["leaks"] == 4


def test_leaks_stay_when_allowed_and_are_counted(originals, exam, corpus_of, tmp_path):
    found = corpus_of(tmp_path / "corpus", f"mine={originals}", evaluation=[f"exam={exam}"], on_leak="allow")
    assert {row["status"] for row in found.frames} == {"kept"}
    assert json.loads((found.folder / "summary.json").read_text())["leaks"] == 4


def test_no_pixel_of_an_evaluation_set_is_stored(originals, exam, corpus_of, tmp_path):
    found = corpus_of(tmp_path / "corpus", f"mine={originals}", evaluation=[f"exam={exam}"], on_leak="drop")
    stored = {row["shard"] for row in found.frames if row["shard"]}
    arrows = {path.relative_to(found.folder).as_posix() for path in found.folder.rglob("*.arrow")}
    assert arrows == stored


def test_unrelated_simulated_sets_raise_no_alarm(corpus_of, stills, tmp_path):
    corpus = stills(tmp_path / "corpus set", range(200, 225))
    exam = stills(tmp_path / "exam", range(300, 325))
    found = corpus_of(tmp_path / "corpus", corpus, evaluation=[f"exam={exam}"])
    assert {row["status"] for row in found.frames} == {"kept"}


@pytest.mark.slow
def test_fetal_heads_and_breasts_raise_no_alarm(shared, corpus_of, tmp_path):
    """A hundred real frames each of two published sets; planted ones are found among them."""
    for name in ("hc18", "busi"):
        source = shared / "data" / "frames" / name / "images"
        chosen = sorted(source.iterdir())[::7][:100]
        (tmp_path / name).mkdir()
        for path in chosen:
            shutil.copy(path, tmp_path / name)
        lines = ["file,group", *(f"{path.name},{path.stem}" for path in chosen)]
        (tmp_path / name / "index.csv").write_text("\n".join(lines) + "\n")
    breasts = f"busi_frames={tmp_path / 'busi'}"
    found = corpus_of(tmp_path / "corpus", f"heads={tmp_path / 'hc18'}", evaluation=[breasts])
    assert sum(row["status"] == "kept" for row in found.frames) > 60
    planted = sorted((tmp_path / "busi").glob("*.jpg"))[:5]
    (tmp_path / "planted").mkdir()
    for path in planted:
        turned = cv2.imread(str(path))[:, ::-1]
        cv2.imwrite(str(tmp_path / "planted" / path.name), turned, [cv2.IMWRITE_JPEG_QUALITY, 60])
    kept = {row["group"] for row in corpus_of(tmp_path / "alone", f"p={tmp_path / 'planted'}").frames}
    with pytest.raises(LeakageError, match=f"{len(kept)} frames of the corpus"):
        corpus_of(tmp_path / "leaky", f"p={tmp_path / 'planted'}", evaluation=[breasts])

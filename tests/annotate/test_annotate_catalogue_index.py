"""The index of a folder, what is uploaded into it, and many who ask at once."""

from __future__ import annotations

import os
import random
import shutil
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from catalogue_case import CINE, CINE_FRAMES, Opened, by_name, picture, study, until

from sonodistill.annotate.errors import ConflictError, TooLargeError, UnknownIdError
from sonodistill.annotate.ids import FrameId, item_id
from sonodistill.annotate.studies.catalogue import FolderCatalogue
from sonodistill.annotate.studies.frame_source import FrameCache
from sonodistill.errors import SonoDistillError
from sonodistill.frames import Calibration, Frame, Provenance, read

# The index


def test_new_changed_and_vanished_files_are_noticed(tmp_path: Path, opened: Opened) -> None:
    picture(tmp_path / "a.png")
    catalogue = opened(tmp_path)
    assert not catalogue.refresh()
    picture(tmp_path / "b.png")
    assert catalogue.refresh()
    assert set(by_name(catalogue)) == {"a.png", "b.png"}
    before = catalogue.frame(FrameId(item_id("a.png"), 0)).image
    picture(tmp_path / "a.png", seed=9)
    assert catalogue.refresh()
    assert (catalogue.frame(FrameId(item_id("a.png"), 0)).image != before).any()
    (tmp_path / "b.png").unlink()
    assert catalogue.refresh()
    assert set(by_name(catalogue)) == {"a.png"}
    with pytest.raises(UnknownIdError):
        catalogue.item(item_id("b.png"))


OPENS = """
import sys
from pathlib import Path

studies, count = Path(sys.argv[1]), 0

def audit(event, args):
    global count
    if event == "open" and isinstance(args[0], str) and args[0].startswith(str(studies)) and ".work" not in args[0]:
        count += 1

from sonodistill.annotate.studies.catalogue import FolderCatalogue

sys.addaudithook(audit)
catalogue = FolderCatalogue(studies, studies / ".work")
catalogue.refresh()
print(len(catalogue.items()), len(catalogue.skipped()), count)
catalogue.close()
"""


def test_a_file_is_opened_once_in_its_life(tmp_path: Path) -> None:
    for number in range(20):
        picture(tmp_path / f"{number}.png")
    (tmp_path / "bad.png").write_bytes(b"no image")
    shutil.copy(CINE, tmp_path / "cine.dcm")
    command = [sys.executable, "-c", OPENS, str(tmp_path)]
    said = [subprocess.run(command, check=True, capture_output=True, text=True, timeout=60).stdout for _ in range(2)]
    assert said[0].split()[:2] == said[1].split()[:2] == ["21", "1"]
    assert int(said[0].split()[2]) > 21
    assert int(said[1].split()[2]) == 0


def test_a_damaged_index_is_made_anew(tmp_path: Path, opened: Opened) -> None:
    picture(tmp_path / "a.png")
    work = tmp_path / ".sonodistill"
    work.mkdir()
    (work / "catalogue.sqlite").write_bytes(b"garbage" * 1000)
    assert [item.name for item in opened(tmp_path).items()] == ["a.png"]


def test_two_processes_may_have_the_folder_open(tmp_path: Path, opened: Opened) -> None:
    picture(tmp_path / "a.png")
    first, second = opened(tmp_path), opened(tmp_path)
    picture(tmp_path / "b.png")
    assert first.refresh() and second.refresh()
    assert first.items() == second.items()


def test_many_new_files_are_opened_in_the_background(tmp_path: Path, opened: Opened) -> None:
    for number in range(30):
        picture(tmp_path / f"{number:02}.png")
    catalogue = opened(tmp_path, patience=0)
    until(lambda: catalogue.pending == 0 and len(catalogue.items()) == 30)
    assert catalogue.refresh()
    assert not catalogue.refresh()


def test_the_catalogue_can_be_closed_while_files_are_opened(tmp_path: Path, opened: Opened) -> None:
    for number in range(200):
        picture(tmp_path / f"{number:03}.png")
    opened(tmp_path, patience=0).close()
    again = opened(tmp_path, patience=60)
    assert len(again.items()) == 200


def test_what_is_asked_of_a_closed_catalogue_is_an_error_of_ours(tmp_path: Path) -> None:
    shutil.copy(CINE, tmp_path / "cine.dcm")
    catalogue = FolderCatalogue(tmp_path, tmp_path / ".sonodistill")
    catalogue.close()
    catalogue.close()
    with pytest.raises(ConflictError, match="closed"):
        catalogue.frame(FrameId(item_id("cine.dcm"), 0))


# Uploads


def test_an_upload_is_copied_opened_and_listed(tmp_path: Path, opened: Opened) -> None:
    studies = tmp_path / "studies"
    picture(studies / "a.png")
    catalogue = opened(studies)
    item = catalogue.add(CINE, "clip of today.DCM")
    assert (item.name, item.frames, item.kind) == ("uploads/clip-of-today.dcm", CINE_FRAMES, "dicom")
    assert catalogue.item(item.id) == item
    assert catalogue.file(item).read_bytes() == CINE.read_bytes()
    catalogue.refresh()
    assert catalogue.item(item.id) == item
    assert [entry.name for entry in catalogue.items()] == ["a.png", "uploads/clip-of-today.dcm"]
    again = catalogue.add(CINE, "clip of today.DCM")
    assert again.id != item.id and again.frames == CINE_FRAMES
    assert opened(studies).items() == catalogue.items()


@pytest.mark.parametrize(
    "name",
    [
        "../../escaped.png",
        "..",
        "",
        "/etc/passwd",
        "..\\..\\x.png",
        ".hidden.png",
        "a\0b.png",
        "x" * 5000,
        "é\n.PNG",
        "con",
    ],
)
def test_names_of_uploads_lead_nowhere_else(tmp_path: Path, opened: Opened, name: str) -> None:
    sent = picture(tmp_path / "sent.png")
    studies = tmp_path / "studies"
    studies.mkdir()
    item = opened(studies).add(sent, name)
    assert item.path.parent == studies / "uploads"
    assert [path for path in tmp_path.rglob("*.png") if not path.is_relative_to(studies)] == [sent]
    assert len(item.path.name) < 100 and item.path.name.isascii() and not item.path.name.startswith(".")


def test_what_is_no_image_is_refused_and_leaves_nothing(tmp_path: Path, opened: Opened) -> None:
    studies = tmp_path / "studies"
    studies.mkdir()
    picture(studies / "uploads" / "other.png")
    catalogue = opened(studies)
    before = catalogue.items()
    content = bytearray(picture(tmp_path / "x.png", size=(200, 300)).read_bytes())
    content[len(content) // 2] ^= 255
    reads_another = b"NRRD0004\ntype: uint8\ndimension: 2\nsizes: 40 60\nencoding: raw\ndata file: other.png\n"
    for name, data in (
        ("page.png", b"<html>502 Bad Gateway</html>"),
        ("empty.dcm", b""),
        ("cut.dcm", CINE.read_bytes()[:-2000]),
        ("damaged.png", bytes(content)),
        ("header.nhdr", reads_another),
        ("script.sh", b"#!/bin/sh\n"),
    ):
        sent = tmp_path / "sent"
        sent.write_bytes(data)
        with pytest.raises(SonoDistillError):
            catalogue.add(sent, name)
    assert [path.name for path in (studies / "uploads").iterdir()] == ["other.png"]
    assert catalogue.items() == before and not catalogue.skipped()


def test_an_upload_that_is_too_large_is_refused_and_leaves_nothing(tmp_path: Path, opened: Opened) -> None:
    studies = tmp_path / "studies"
    studies.mkdir()
    catalogue = opened(studies, largest_upload=1000)
    with pytest.raises(TooLargeError, match="1000 bytes"):
        catalogue.add(CINE, "clip.dcm")
    assert not list((studies / "uploads").iterdir())


def test_only_uploads_are_removed(tmp_path: Path, opened: Opened) -> None:
    studies = tmp_path / "studies"
    own = picture(studies / "uploads" / "own.png")
    catalogue = opened(studies)
    with pytest.raises(ConflictError, match="was not uploaded"):
        catalogue.remove(catalogue.item(item_id("uploads/own.png")))
    item = catalogue.add(picture(tmp_path / "sent.png", seed=2), "sent.png")
    catalogue.frame(FrameId(item.id, 0))
    reopened = opened(studies)
    reopened.remove(reopened.item(item.id))
    assert own.exists() and not item.path.exists()
    with pytest.raises(UnknownIdError):
        reopened.remove(item)
    assert catalogue.refresh()
    assert [one.name for one in catalogue.items()] == ["uploads/own.png"]


def test_uploads_do_not_go_through_a_link(tmp_path: Path, opened: Opened) -> None:
    studies, outside = tmp_path / "studies", tmp_path / "outside"
    studies.mkdir()
    outside.mkdir()
    (studies / "uploads").symlink_to(outside)
    with pytest.raises(SonoDistillError, match="is a link"):
        opened(studies).add(picture(tmp_path / "sent.png"), "sent.png")
    assert not list(outside.iterdir())


def test_what_a_killed_process_left_of_an_upload_is_cleared_away(tmp_path: Path, opened: Opened) -> None:
    old, new = tmp_path / "uploads" / ".incoming-old", tmp_path / "uploads" / ".incoming-new"
    for folder in (old, new):
        picture(folder / "half.png")
    os.utime(old, (0, 0))
    assert opened(tmp_path).items() == []
    assert new.exists() and not old.exists()


# Memory and threads


def frame_of(nbytes: int) -> Frame:
    return Frame(np.zeros((1, nbytes), np.uint8), 0, None, Calibration(None), Provenance(Path("x"), "image"))


def test_decoded_frames_are_kept_within_their_bytes() -> None:
    cache = FrameCache(100)
    for index in range(5):
        cache.put(("a", "", index), frame_of(30))
    assert cache.held == 90
    assert [cache.get(("a", "", index)) is not None for index in range(5)] == [False, False, True, True, True]
    cache.get(("a", "", 2))
    cache.put(("b", "", 0), frame_of(30))
    assert cache.get(("a", "", 2)) is not None and cache.get(("a", "", 3)) is None
    cache.put(("c", "", 0), frame_of(101))
    assert cache.held <= 100
    cache.forget("a")
    cache.forget("b")
    assert cache.held == 0


def test_a_frame_is_decoded_once_and_nobody_can_change_it(tmp_path: Path, opened: Opened) -> None:
    catalogue = opened(study(tmp_path))
    for item in catalogue.items():
        first = catalogue.frame(FrameId(item.id, item.frames - 1))
        assert catalogue.frame(FrameId(item.id, item.frames - 1)) is first
        with pytest.raises(ValueError, match="read-only"):
            first.image[0, 0] = 1


def test_a_cache_without_room_only_costs_time(tmp_path: Path, opened: Opened) -> None:
    catalogue = opened(study(tmp_path), cache_bytes=0)
    for item in catalogue.items():
        assert catalogue.frame(FrameId(item.id, item.frames - 1)).index == item.frames - 1


def test_a_cine_may_be_left_early_and_others_read_meanwhile(tmp_path: Path, opened: Opened) -> None:
    catalogue = opened(study(tmp_path))
    cine, still = by_name(catalogue)["cine.dcm"], by_name(catalogue)["1.2.840.113619.2.21"]
    reading = [catalogue.read(cine) for _ in range(4)]
    for frames in reading:
        assert next(frames).index == 0
        assert catalogue.frame(FrameId(cine.id, 20)).index == 20
        assert len(list(catalogue.read(still))) == 1
    assert [next(frames).index for frames in reading] == [1, 1, 1, 1]
    reading[0].close()
    assert len(list(reading[1])) == CINE_FRAMES - 2


def test_everything_may_be_asked_from_many_threads(tmp_path: Path, opened: Opened) -> None:
    studies = study(tmp_path / "studies")
    catalogue = opened(studies, cache_bytes=1 << 20)
    items = catalogue.items()
    expected = {item.id: [frame.image for frame in read(item.path)] for item in items}
    sent = picture(tmp_path / "sent.png")
    failed: list[BaseException] = []

    def look(seed: int) -> None:
        chance = random.Random(seed)
        for _ in range(12):
            item = chance.choice(items)
            index = chance.randrange(item.frames)
            assert (catalogue.frame(FrameId(item.id, index)).image == expected[item.id][index]).all()
            (frame,) = catalogue.read(item, [index])
            assert (frame.image == expected[item.id][index]).all()
            assert catalogue.locate(item.id) == (item, None)

    def change(seed: int) -> None:
        for number in range(5):
            item = catalogue.add(sent, f"{seed}.png")
            picture(studies / f"new-{seed}-{number}.png", number)
            catalogue.refresh()
            assert catalogue.frame(FrameId(item.id, 0)).image.shape == (40, 60)
            catalogue.remove(item)
            assert len(catalogue.items()) >= len(items)

    def run(work: Callable[[int], None], seed: int) -> None:
        try:
            work(seed)
        except BaseException as error:  # noqa: BLE001
            failed.append(error)

    threads = [threading.Thread(target=run, args=(work, seed)) for seed in range(3) for work in (look, change)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(120)
    assert failed == [] and not any(thread.is_alive() for thread in threads)
    catalogue.refresh()
    assert len(catalogue.items()) == len(items) + 15

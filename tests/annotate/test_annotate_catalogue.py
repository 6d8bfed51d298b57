"""A folder of stills, cines, videos and volumes as items and frames, whatever lies in it and whoever asks."""

from __future__ import annotations

import os
import random
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import av
import numpy as np
import pytest
import SimpleITK as sitk
from PIL import Image
from pydicom import dcmread, examples

from sonodistill.annotate.errors import ConflictError, InvalidIdError, TooLargeError, UnknownIdError
from sonodistill.annotate.ids import FrameId, item_id
from sonodistill.annotate.model import Item
from sonodistill.annotate.studies.catalogue import FolderCatalogue
from sonodistill.annotate.studies.frame_source import FrameCache
from sonodistill.errors import SonoDistillError, UnreadableFileError
from sonodistill.frames import Calibration, Frame, Provenance, read

CINE, STILL = Path(examples.get_path("ybr_color")), Path(examples.get_path("palette_color"))
CINE_FRAMES = 30
# Two names with the same stem, whose SHA-256 begin with the same ten digits.
ALIKE = ("scan!!#!##!####!!!!###!##!.png", "scan#!#!#!!#!!#!!!!!!#!!!#.png")

Opened = Callable[..., FolderCatalogue]


@pytest.fixture
def opened() -> Iterator[Opened]:
    """Opens catalogues, and closes them in the end."""
    made: list[FolderCatalogue] = []

    def open_catalogue(studies: Path, work: Path | None = None, **options: float) -> FolderCatalogue:
        made.append(FolderCatalogue(studies, work or studies / ".sonodistill", **options))  # type: ignore[arg-type]
        return made[-1]

    yield open_catalogue
    for catalogue in made:
        catalogue.close()


def picture(path: Path, seed: int = 0, size: tuple[int, int] = (40, 60)) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.random.default_rng(seed).integers(0, 255, size, dtype=np.uint8)).save(path)
    return path


def video(path: Path, frames: int = 12, codec: str = "mpeg4") -> Path:
    with av.open(str(path), "w") as container:
        stream = container.add_stream(codec, rate=25)
        stream.width, stream.height, stream.pix_fmt = 64, 48, "yuv420p"
        for index in range(frames):
            image = np.random.default_rng(index).integers(0, 255, (48, 64), dtype=np.uint8)
            for packet in stream.encode(av.VideoFrame.from_ndarray(image, format="gray").reformat(format="yuv420p")):
                container.mux(packet)
        for packet in stream.encode():
            container.mux(packet)
    return path


def volume(path: Path) -> Path:
    values = np.random.default_rng(0).integers(0, 255, (5, 20, 30), dtype=np.uint8)
    sitk.WriteImage(sitk.GetImageFromArray(values), str(path))
    return path


def dicom(path: Path, source: Path = STILL, **tags: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    ds = dcmread(source)
    for keyword, value in tags.items():
        setattr(ds, keyword, value)
    ds.save_as(path)
    return path


def study(folder: Path) -> Path:
    """Every kind of source, one of each."""
    picture(folder / "busi" / "still.png")
    pages = [Image.fromarray(np.full((30, 40), 60 * page, np.uint8)) for page in range(3)]
    pages[0].save(folder / "busi" / "pages.tif", save_all=True, append_images=pages[1:])
    video(folder / "clip.mp4")
    volume(folder / "volume.nrrd")
    shutil.copy(CINE, folder / "cine.dcm")
    shutil.copy(STILL, folder / "1.2.840.113619.2.21")
    return folder


def by_name(catalogue: FolderCatalogue) -> dict[str, Item]:
    return {item.name: item for item in catalogue.items()}


def until(holds: Callable[[], bool]) -> None:
    end = time.monotonic() + 30
    while not holds():
        assert time.monotonic() < end, "it did not happen in 30 seconds"
        time.sleep(0.02)


# What there is


def test_every_kind_of_file_is_an_item_with_its_frames(tmp_path: Path, opened: Opened) -> None:
    catalogue = opened(study(tmp_path))
    found = {name: (item.kind, item.frames) for name, item in by_name(catalogue).items()}
    assert found == {
        "1.2.840.113619.2.21": ("dicom", 1),
        "busi/pages.tif": ("image", 3),
        "busi/still.png": ("image", 1),
        "cine.dcm": ("dicom", CINE_FRAMES),
        "clip.mp4": ("video", 12),
        "volume.nrrd": ("volume", 5),
    }
    assert catalogue.skipped() == []
    assert [item.name for item in catalogue.items()] == sorted(found)


def test_frames_are_those_of_the_file(tmp_path: Path, opened: Opened) -> None:
    catalogue = opened(study(tmp_path))
    for item in catalogue.items():
        expected = list(read(item.path))
        assert len(expected) == item.frames
        for got, want in zip(catalogue.read(item), expected, strict=True):
            assert (got.index, got.time_ms, got.calibration) == (want.index, want.time_ms, want.calibration)
            assert (got.image == want.image).all()
        order = list(range(item.frames))
        random.Random(1).shuffle(order)
        for index in order * 2:
            assert (catalogue.frame(FrameId(item.id, index)).image == expected[index].image).all()
        wanted = {0, item.frames - 1}
        assert [frame.index for frame in catalogue.read(item, wanted)] == sorted(wanted)


def test_a_frame_that_the_file_does_not_hold_is_an_error_after_those_it_holds(tmp_path: Path, opened: Opened) -> None:
    catalogue = opened(study(tmp_path))
    for name in ("cine.dcm", "clip.mp4"):
        got = []
        with pytest.raises(UnreadableFileError, match="has no frame 99"):
            got.extend(frame.index for frame in catalogue.read(by_name(catalogue)[name], [99, 2]))
        assert by_name(catalogue)[name].frames >= 12
        with pytest.raises(UnknownIdError):
            catalogue.frame(FrameId(by_name(catalogue)[name].id, 99))


def test_ids_are_the_same_wherever_the_folder_lies(tmp_path: Path, opened: Opened) -> None:
    first = opened(study(tmp_path / "a"))
    shutil.copytree(tmp_path / "a", tmp_path / "b")
    second = opened(tmp_path / "b", tmp_path / "elsewhere")
    assert [item.id for item in first.items()] == [item.id for item in second.items()]
    assert not (tmp_path / "elsewhere").is_relative_to(tmp_path / "b")


def test_clients_may_mean_an_item_or_a_frame(tmp_path: Path, opened: Opened) -> None:
    catalogue = opened(study(tmp_path))
    cine, still = by_name(catalogue)["cine.dcm"], by_name(catalogue)["busi/still.png"]
    assert catalogue.locate(cine.id) == (cine, None)
    assert catalogue.locate(str(FrameId(cine.id, 29))) == (cine, 29)
    assert catalogue.locate(str(FrameId(still.id, 0))) == (still, None)
    for text in (f"{cine.id}.f00030", f"{still.id}.f00001", "clip-0000000000", "a.f00001.f00001"):
        with pytest.raises(UnknownIdError):
            catalogue.locate(text)
    for text in ("../clip.mp4", "", "/etc/passwd", "busi/still.png", str(tmp_path / "clip.mp4")):
        with pytest.raises(InvalidIdError):
            catalogue.locate(text)
        with pytest.raises(InvalidIdError):
            catalogue.item(text)


def test_an_item_of_the_callers_own_making_reads_no_other_file(tmp_path: Path, opened: Opened) -> None:
    picture(tmp_path / "studies" / "still.png")
    secret = picture(tmp_path / "secret.png", seed=5)
    catalogue = opened(tmp_path / "studies")
    (item,) = catalogue.items()
    forged = Item(item.id, "x", "image", 1, secret)
    assert catalogue.file(forged) == item.path
    assert (next(catalogue.read(forged)).image == next(read(item.path)).image).all()


def test_an_empty_folder_has_no_items_and_a_missing_one_is_an_error(tmp_path: Path, opened: Opened) -> None:
    assert opened(tmp_path).items() == []
    with pytest.raises(UnreadableFileError, match="no such folder"):
        opened(tmp_path / "missing")


def test_file_names_may_be_of_any_bytes(tmp_path: Path, opened: Opened) -> None:
    source = picture(tmp_path / "source.png")
    for name in (b"\xff\xfe.png", "Müller Ω 'x'; --.png".encode(), b"a\nb.png", b"~.png", b"-rf.png"):
        shutil.copy(source, os.fsencode(tmp_path) + b"/" + name)
    catalogue = opened(tmp_path)
    assert len({item.id for item in catalogue.items()}) == 6
    assert all(item.name.encode() and next(catalogue.read(item)).image.shape == (40, 60) for item in catalogue.items())


# What belongs together


def test_files_of_a_patient_are_a_group_that_does_not_tell_who_it_is(tmp_path: Path, opened: Opened) -> None:
    dicom(tmp_path / "a" / "1.dcm", PatientID="ZEBRA-4711", PatientName="Zebra^Anna")
    dicom(tmp_path / "b" / "2.dcm", PatientID=" ZEBRA-4711")
    dicom(tmp_path / "b" / "3.dcm", PatientID="LION-12")
    catalogue = opened(tmp_path)
    groups = {name: item.group for name, item in by_name(catalogue).items()}
    assert groups["a/1.dcm"] == groups["b/2.dcm"] != groups["b/3.dcm"]
    kept = b"".join(path.read_bytes() for path in (tmp_path / ".sonodistill").rglob("*"))
    for secret in ("ZEBRA", "Zebra", "LION"):
        assert secret not in repr(catalogue.items())
        assert secret.encode() not in kept
    # Elsewhere they are called otherwise, so that nobody can look a number up.
    elsewhere = by_name(opened(tmp_path, tmp_path.parent / f"{tmp_path.name}-work"))
    assert elsewhere["a/1.dcm"].group == elsewhere["b/2.dcm"].group != groups["a/1.dcm"]


def test_groups_stay_when_the_catalogue_is_opened_again_and_the_index_is_lost(tmp_path: Path, opened: Opened) -> None:
    dicom(tmp_path / "1.dcm", PatientID="ZEBRA-4711")
    first = opened(tmp_path)
    before = first.items()
    first.close()
    assert opened(tmp_path).items() == before
    for path in (tmp_path / ".sonodistill").glob("catalogue.sqlite*"):
        path.unlink()
    assert opened(tmp_path).items() == before


def test_the_study_stands_in_for_a_patient_without_a_number_and_the_folder_for_both(
    tmp_path: Path, opened: Opened
) -> None:
    dicom(tmp_path / "a" / "1.dcm", PatientID="", StudyInstanceUID="1.2.3")
    dicom(tmp_path / "b" / "2.dcm", PatientID="", StudyInstanceUID="1.2.3")
    dicom(tmp_path / "b" / "3.dcm", PatientID="", StudyInstanceUID="", SeriesInstanceUID="1.2.4")
    picture(tmp_path / "b" / "inner" / "4.png")
    picture(tmp_path / "5.png")
    found = by_name(opened(tmp_path))
    assert found["a/1.dcm"].group == found["b/2.dcm"].group
    assert "1.2.3" not in found["a/1.dcm"].group
    assert (found["b/3.dcm"].group, found["b/inner/4.png"].group, found["5.png"].group) == ("b", "b/inner", "")
    assert (found["b/3.dcm"].series, found["5.png"].series) == ("1.2.4", "")


# What is passed over


def test_damaged_files_are_skipped_with_a_reason_and_the_rest_goes_on(tmp_path: Path, opened: Opened) -> None:
    good = picture(tmp_path / "good.png")
    (tmp_path / "cut.png").write_bytes(good.read_bytes()[:-40])
    (tmp_path / "empty.png").write_bytes(b"")
    (tmp_path / "page.jpg").write_text("<html>404 Not Found</html>")
    (tmp_path / "cut.dcm").write_bytes(CINE.read_bytes()[:-3000])
    (tmp_path / "cut.mp4").write_bytes(video(tmp_path / "good.mp4").read_bytes()[:-900])
    (tmp_path / "cut.nii.gz").write_bytes(volume(tmp_path / "good.nii.gz").read_bytes()[:900])
    Image.fromarray(np.zeros((40, 60), np.uint8)).save(tmp_path / "good.jpg")
    (tmp_path / "cut.jpg").write_bytes((tmp_path / "good.jpg").read_bytes()[:-20])
    catalogue = opened(tmp_path)
    assert set(by_name(catalogue)) == {"good.png", "good.mp4", "good.nii.gz", "good.jpg"}
    skipped = dict(catalogue.skipped())
    assert set(skipped) == {"cut.png", "empty.png", "page.jpg", "cut.dcm", "cut.mp4", "cut.nii.gz", "cut.jpg"}
    assert all(skipped.values())
    assert "empty" in skipped["empty.png"]


def test_a_still_whose_damage_shows_only_when_it_is_decoded_is_skipped_then(tmp_path: Path, opened: Opened) -> None:
    path = picture(tmp_path / "still.png", size=(200, 300))
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 255
    path.write_bytes(content)
    picture(tmp_path / "sound.png")
    catalogue = opened(tmp_path)
    with pytest.raises(UnreadableFileError):
        catalogue.frame(FrameId(item_id("still.png"), 0))
    assert [item.name for item in catalogue.items()] == ["sound.png"]
    assert [name for name, _ in catalogue.skipped()] == ["still.png"]
    assert catalogue.refresh() and not catalogue.refresh()
    with pytest.raises(UnknownIdError):
        catalogue.item(item_id("still.png"))
    picture(path)
    assert catalogue.refresh()
    assert len(catalogue.items()) == 2


def test_a_video_that_breaks_off_has_the_frames_that_are_there(tmp_path: Path, opened: Opened) -> None:
    whole = video(tmp_path / "whole.avi", frames=60).read_bytes()
    (tmp_path / "cut.avi").write_bytes(whole[: len(whole) * 2 // 3])
    (item,) = [item for item in opened(tmp_path).items() if item.name == "cut.avi"]
    assert 5 < item.frames < 60
    assert len(list(read(item.path))) == item.frames


@pytest.mark.parametrize(("suffix", "codec"), [(".mkv", "mpeg4"), (".webm", "libvpx"), (".mpg", "mpeg2video")])
def test_frames_of_videos_that_do_not_state_them_are_counted(
    tmp_path: Path, opened: Opened, suffix: str, codec: str
) -> None:
    video(tmp_path / f"clip{suffix}", 17, codec)
    assert [item.frames for item in opened(tmp_path).items()] == [17]


def test_links_that_leave_the_folder_are_no_items(tmp_path: Path, opened: Opened) -> None:
    studies = tmp_path / "studies"
    picture(studies / "inside.png")
    picture(tmp_path / "outside" / "secret.png")
    (studies / "link.png").symlink_to(tmp_path / "outside" / "secret.png")
    (studies / "folder").symlink_to(tmp_path / "outside")
    (studies / "loop.png").symlink_to(studies / "loop.png")
    assert [item.name for item in opened(studies).items()] == ["inside.png"]


def test_a_file_that_becomes_a_link_out_of_the_folder_is_not_read(tmp_path: Path, opened: Opened) -> None:
    studies = tmp_path / "studies"
    path = picture(studies / "still.png")
    secret = picture(tmp_path / "secret.png", seed=3)
    catalogue = opened(studies)
    (item,) = catalogue.items()
    path.unlink()
    path.symlink_to(secret)
    for look in (
        lambda: catalogue.frame(FrameId(item.id, 0)),
        lambda: list(catalogue.read(item)),
        lambda: catalogue.file(item),
    ):
        with pytest.raises(UnknownIdError, match="no longer in the studies"):
            look()


def test_hidden_files_and_the_work_folder_are_no_studies(tmp_path: Path, opened: Opened) -> None:
    picture(tmp_path / "still.png")
    picture(tmp_path / ".hidden.png")
    picture(tmp_path / ".sonodistill" / "mask.png")
    picture(tmp_path / "work" / "models" / "mask.png")
    picture(tmp_path / "workshop" / "still.png")
    assert set(by_name(opened(tmp_path, tmp_path / "work"))) == {"still.png", "workshop/still.png"}


def test_two_files_never_share_an_id(tmp_path: Path, opened: Opened) -> None:
    assert item_id(ALIKE[0]) == item_id(ALIKE[1])
    for seed, name in enumerate(ALIKE):
        picture(tmp_path / name, seed)
    catalogue = opened(tmp_path)
    (item,) = catalogue.items()
    ((name, reason),) = catalogue.skipped()
    assert {item.name, name} == set(ALIKE)
    assert f"that of {item.name}: rename it" in reason
    assert (next(catalogue.read(item)).image == next(read(tmp_path / item.name)).image).all()


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

"""A folder of stills, cines, videos and volumes as items and frames, whatever lies in it."""

from __future__ import annotations

import os
import random
import shutil
from pathlib import Path

import numpy as np
import pytest
from catalogue_case import ALIKE, CINE, CINE_FRAMES, Opened, by_name, dicom, picture, study, video, volume
from PIL import Image

from sonodistill.annotate.errors import InvalidIdError, UnknownIdError
from sonodistill.annotate.ids import FrameId, item_id
from sonodistill.annotate.model import Item
from sonodistill.errors import UnreadableFileError
from sonodistill.frames import read

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

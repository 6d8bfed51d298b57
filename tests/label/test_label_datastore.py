"""The adapters between MONAI Label and the workbench, without a server."""

from __future__ import annotations

import io
import os
import sys
import zipfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk
from PIL import Image

pytest.importorskip("monailabel", reason="monailabel is not installed; `pip install sonodistill[label]`")

from app_case import APP, make_studies

sys.path.insert(0, str(APP))

from datastore_case import SHAPE, one, png

from lib.datastore import FrameDatastore
from lib.infers.interactive import LastAnswers
from lib.notes import Notes
from lib.saved import Saved, annotator_of
from lib.sessions import FolderSessions
from lib.settings import settings_of
from sonodistill.annotate.errors import (
    AnnotationError,
    ConflictError,
    InvalidIdError,
    InvalidLabelError,
    TooLargeError,
    UnknownIdError,
)
from sonodistill.annotate.ids import FrameId
from sonodistill.annotate.model import MODEL, Prompts, Status
from sonodistill.annotate.workbench import Workbench
from sonodistill.errors import BundleConfigError
from sonodistill.frames import read


@pytest.fixture(scope="module")
def workbench(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Workbench]:
    folder = tmp_path_factory.mktemp("datastore")
    settings = settings_of(str(make_studies(folder)), {"work": str(folder / "work"), "labels": "left, right"})
    bench = Workbench(settings)
    yield bench
    bench.close()


@pytest.fixture(scope="module")
def store(workbench: Workbench) -> Iterator[FrameDatastore]:
    found = FrameDatastore(workbench)
    yield found
    found.close()


@pytest.fixture(scope="module")
def cine(store: FrameDatastore) -> str:
    return next(id for id in store.list_images() if "cine" in id)


# Labels


def test_the_archive_holds_the_accepted_frames(store, cine, tmp_path) -> None:
    store.save_label(f"{cine}.f00001", png(tmp_path, one(2)), "final", {"client_id": "ann"})
    store.save_label(f"{cine}.f00002", png(tmp_path, one()), "ann", {})
    with zipfile.ZipFile(store.get_dataset_archive(None)) as archive:
        masks = [name for name in archive.namelist() if "f00001" in name or "f00002" in name]
        assert any("f00001" in name for name in masks) and not any("f00002" in name for name in masks)
        assert store.get_dataset_archive(None) == archive.filename


def test_the_list_for_training_is_the_accepted_frames(store, cine, tmp_path) -> None:
    store.save_label(f"{cine}.f00003", png(tmp_path, one(2)), "final", {})
    listed = {Path(pair["image"]).stem: pair for pair in store.datalist()}
    assert f"{cine}.f00003" in listed and f"{cine}.f00002" not in listed
    with Image.open(listed[f"{cine}.f00003"]["label"]) as mask:
        assert np.array_equal(np.array(mask), one(2))


def test_tags_tell_who_did_what(store, workbench, cine, tmp_path) -> None:
    frame = f"{cine}.f00004"
    workbench.labels.save(FrameId(cine, 4), one(), status=Status.PREDICTED, annotator=MODEL)
    store.save_label(frame, png(tmp_path, one()), "bob", {})
    store.save_label(frame, png(tmp_path, one()), "final", {"annotator": "ann"})
    assert store.get_labels_by_image_id(frame) == {"final": frame, "bob": frame, "original": frame}
    assert store.get_label_by_image_id(frame, "bob") == frame
    assert store.get_label_by_image_id(frame, "carl") == ""
    assert store.get_label_uri(frame, "carl") == ""
    assert cine in store.get_labeled_images() and cine not in store.get_unlabeled_images()
    assert cine in store.get_labeled_images("original")
    with pytest.raises(UnknownIdError):
        store.remove_label(frame, "carl")
    with pytest.raises(InvalidIdError):
        store.save_label(frame, png(tmp_path, one()), "../up", {})
    with pytest.raises(InvalidIdError, match="models"):
        store.save_label(frame, png(tmp_path, one()), MODEL, {})


def test_a_class_stays_when_a_mask_is_saved_after_it(store, workbench, cine, tmp_path) -> None:
    frame = f"{cine}.f00005"
    store.save_label(frame, png(tmp_path, one()), "final", {"client_id": "ann", "classification": "benign"})
    store.save_label(frame, png(tmp_path, one(2)), "final", {"client_id": "ann"})
    label = workbench.labels.get(FrameId(cine, 5), "ann")
    assert label.row.classification == "benign" and label.mask.max() == 2


def test_of_a_stack_with_one_wrong_slice_nothing_is_saved(store, workbench, tmp_path) -> None:
    item = next(id for id in store.list_images() if "volume" in id)
    masks = np.zeros((5, 64, 80), np.uint8)
    masks[1], masks[3] = 1, 9
    sitk.WriteImage(sitk.GetImageFromArray(masks), str(tmp_path / "masks.nrrd"))
    with pytest.raises(InvalidLabelError, match="9"):
        store.save_label(item, str(tmp_path / "masks.nrrd"), "final", {})
    assert workbench.labels.status_of(item) == {}


def test_predictions_of_a_stack_pass_over_what_people_did(store, workbench, tmp_path) -> None:
    item = next(id for id in store.list_images() if "volume" in id)
    masks = np.zeros((5, 64, 80), np.uint8)
    masks[1], masks[2] = 1, 2
    sitk.WriteImage(sitk.GetImageFromArray(masks), str(tmp_path / "masks.nrrd"))
    store.save_label(f"{item}.f00001", png(tmp_path, np.full((64, 80), 2, np.uint8)), "final", {})
    store.save_label(item, str(tmp_path / "masks.nrrd"), "original", {})
    assert workbench.labels.status_of(item) == {1: Status.ACCEPTED, 2: Status.PREDICTED}


@pytest.mark.parametrize(("tag", "kept"), [("final", Status.EDITED), ("kim", Status.ACCEPTED)])
def test_only_masks_of_the_tag_are_erased_when_another_frame_is_labelled(store, workbench, cine, tmp_path, tag, kept):
    skipped, classified, erased, other = (FrameId(cine, at) for at in (20, 21, 22, 24))
    status = Status.ACCEPTED if tag == "final" else Status.EDITED
    workbench.labels.mark(skipped, Status.SKIPPED, "kim")
    workbench.labels.save(classified, None, status=Status.EDITED, annotator="kim", classification="benign")
    workbench.labels.save(erased, one(), status=status, annotator="kim")
    workbench.labels.save(other, one(), status=kept, annotator="kim")
    masks = np.zeros((30, *SHAPE), np.uint8)
    masks[23] = one()
    sitk.WriteImage(sitk.GetImageFromArray(masks), str(tmp_path / "masks.nrrd"), True)
    store.save_label(cine, str(tmp_path / "masks.nrrd"), tag, {"client_id": "kim"})
    rows = {row.frame.index: row for row in workbench.labels.rows(item=cine, annotator="kim")}
    assert {at: row.status for at, row in rows.items()} == {
        20: Status.SKIPPED,
        21: Status.EDITED,
        22: status,
        23: status,
        24: kept,
    }
    assert (rows[21].shape, rows[22].pixels) == (None, 0)
    assert rows[24].pixels == np.count_nonzero(one())


def test_what_is_downloaded_is_what_is_there_after_a_label_was_taken_back(store, workbench, cine) -> None:
    for index, who, number in ((25, "anna", 1), (25, "ben", 2), (26, "anna", 1)):
        workbench.labels.save(FrameId(cine, index), one(number), status=Status.ACCEPTED, annotator=who)

    def highest() -> int:
        return int(sitk.GetArrayFromImage(sitk.ReadImage(store.get_label_uri(cine, "final")))[25].max())

    assert highest() == 2
    workbench.labels.remove(FrameId(cine, 25), "ben")
    assert highest() == 1


def test_no_label_is_downloaded_for_an_image_that_has_another_size_now(tmp_path) -> None:
    (tmp_path / "studies").mkdir()
    for side, wanted in ((40, True), (60, False)):
        sitk.WriteImage(sitk.GetImageFromArray(np.ones((3, side, 50), np.uint8)), str(tmp_path / "studies" / "v.nrrd"))
        bench = Workbench(settings_of(str(tmp_path / "studies"), {"work": str(tmp_path / "work")}))
        store = FrameDatastore(bench)
        try:
            item = store.list_images()[0]
            if wanted:
                bench.labels.save(FrameId(item, 1), one(1, (40, 50)), status=Status.ACCEPTED, annotator="anna")
                assert store.get_label_uri(item, "final")
            for id in () if wanted else (item, f"{item}.f00001"):
                with pytest.raises(ConflictError, match="another size"):
                    store.get_label_uri(id, "final")
        finally:
            store.close()
            bench.close()


def test_the_viewer_is_told_the_study_of_an_image_of_a_pacs(store, workbench, cine, monkeypatch) -> None:
    assert "StudyInstanceUID" not in store.get_image_info(cine)
    monkeypatch.setattr(workbench.catalogue, "study", lambda item: "1.2.3", raising=False)
    assert store.get_image_info(f"{cine}.f00002")["StudyInstanceUID"] == "1.2.3"
    assert store.json()["objects"][cine]["image"]["info"]["StudyInstanceUID"] == "1.2.3"


def test_information_is_bounded(store, cine, tmp_path) -> None:
    store.update_image_info(cine, {"comment": "blurred"})
    assert store.get_image_info(cine)["comment"] == "blurred"
    assert store.json()["objects"][cine]["image"]["info"]["comment"] == "blurred"
    with pytest.raises(AnnotationError):
        store.update_image_info(cine, {"comment": "x" * 20_000})
    with pytest.raises(UnknownIdError):
        store.update_image_info("nothing", {"comment": "x"})
    store.save_label(f"{cine}.f00006", png(tmp_path, one()), "final", {})
    with pytest.raises(AnnotationError):
        store.update_label_info(f"{cine}.f00006", "final", {"comment": "x" * 20_000})


@pytest.mark.parametrize(
    ("label_info", "value", "number"),
    [
        (None, 2, 2),
        ([], 2, 2),
        ([{"name": "right", "idx": 1}, {"name": "left", "idx": 2}], 1, 2),
        ([{"name": "right", "idx": 3}], 1, 2),  # Slicer left two segments out
        ([{"name": "left"}, {"name": "right"}], 2, 2),
        ([{"name": "else", "idx": 1}, {"name": "right", "idx": 2}], 2, 2),
    ],
)
def test_numbers_are_translated_by_their_names(label_info, value: int, number: int) -> None:
    saved = Saved.of("final", {"label_info": label_info}, ("left", "right"))
    assert saved.numbered(np.array([[[0, value]]])).tolist() == [[[0, number]]]


@pytest.mark.parametrize(
    ("label_info", "value"), [([{"name": "else", "idx": 1}], 1), ([{"name": "left", "idx": 1}], 2)]
)
def test_numbers_without_a_name_here_are_refused(label_info, value: int) -> None:
    with pytest.raises(InvalidLabelError):
        Saved.of("final", {"label_info": label_info}, ("left", "right")).numbered(np.array([[[0, value]]]))


@pytest.mark.parametrize(
    ("given", "name"),
    [
        ({}, "annotator"),
        ({"client_id": "user-xyz"}, "user-xyz"),
        ({"client_id": None}, "annotator"),
        ({"client_id": "Dr. A. B."}, "Dr.-A.-B"),
        ({"client_id": "a", "annotator": "b"}, "b"),
        ({"client_id": MODEL}, "model-annotator"),
        ({"client_id": "../../x"}, "x"),
    ],
)
def test_a_client_s_name_becomes_an_annotator(given, name: str) -> None:
    assert annotator_of(given) == name


# The rest


def test_notes_are_there_after_a_start(tmp_path) -> None:
    notes = Notes(tmp_path / "notes.sqlite")
    notes.add("a", {"x": 1})
    notes.add("a", {"y": [2]})
    notes.uploaded("My volume", "uploads-1")
    notes.close()
    notes = Notes(tmp_path / "notes.sqlite")
    assert notes.of("a") == {"x": 1, "y": [2]} and notes.upload("My volume") == "uploads-1"
    assert notes.upload("../x") is None
    with pytest.raises(InvalidIdError):
        notes.uploaded("../x", "uploads-1")
    notes.close()


def test_sessions_lead_nowhere_else_and_are_few(tmp_path, monkeypatch) -> None:
    (tmp_path / "meta.info").write_text('{"image": "/nowhere"}')
    (tmp_path / "kept.txt").write_text("kept")
    sessions = FolderSessions(tmp_path / "sessions", 3600)
    for id in ("..", "../..", "", "a/b", "123e4567-e89b-12d3-a456-42661417400/"):
        with pytest.raises(InvalidIdError):
            sessions.get_session(id)
        with pytest.raises(InvalidIdError):
            sessions.remove_session(id)
    assert (tmp_path / "kept.txt").exists()
    monkeypatch.setattr("lib.sessions._MOST", 2)
    for number in range(3):
        (tmp_path / f"{number}.png").write_bytes(b"x")
        if number < 2:
            id, info = sessions.add_session(str(tmp_path / f"{number}.png"))
            assert sessions.get_session(id).image == info.image
    with pytest.raises(TooLargeError):
        sessions.add_session(str(tmp_path / "2.png"))
    with pytest.raises(AnnotationError):
        sessions.add_session(str(tmp_path / "2.png"), uncompress=True)


def test_what_was_left_of_a_session_by_a_kill_keeps_nobody_from_another(tmp_path) -> None:
    folder = tmp_path / "sessions"
    left = ["123e4567-e89b-12d3-a456-42661417400a", "123e4567-e89b-12d3-a456-42661417400b", "strange"]
    for name in left:
        (folder / name).mkdir(parents=True)
    (folder / left[1] / "meta.info").write_text('{"ima')
    for name in left:
        os.utime(folder / name, (1, 1))
    new = folder / "123e4567-e89b-12d3-a456-42661417400c"  # of a request that is under way
    new.mkdir()
    (tmp_path / "a.png").write_bytes(b"x")
    sessions = FolderSessions(folder, 3600)
    id, _ = sessions.add_session(str(tmp_path / "a.png"))
    assert sorted(path.name for path in folder.iterdir()) == sorted([id, new.name])
    sessions.get_session(id, update_ts=False).last_access_ts = 1
    assert sessions.remove_expired() == 1 and sessions.get_session(id) is None


def test_settings_are_read_from_pairs_of_text(tmp_path) -> None:
    found = settings_of(
        str(tmp_path), {"labels": " a, b ,", "threads": "2", "train_after": "20", "server_mode": "true"}
    )
    assert (found.labels, found.threads, found.train_after) == (("a", "b"), 2, 20)
    assert found.work == tmp_path / ".sonodistill"
    with pytest.raises(BundleConfigError, match="threads"):
        settings_of(str(tmp_path), {"threads": "two"})
    pacs = settings_of(
        "http://127.0.0.1:8042/dicom-web", {"query": "PatientID=1&StudyDate=2026", "work": str(tmp_path)}
    )
    assert pacs.query == {"PatientID": "1", "StudyDate": "2026"}


def test_a_series_is_one_image_where_it_can_be(store, workbench, cine) -> None:
    series = workbench.catalogue.item(cine).series
    target = store.images.find(series)
    assert [frame.item for frame in target.frames] == [cine] * 30 and not target.planar
    with pytest.raises(UnknownIdError):
        store.images.find("1.2.3.4")


def test_a_series_of_stills_is_a_stack_if_they_are_of_one_size(tmp_path) -> None:
    from pydicom import dcmread, examples
    from pydicom.uid import generate_uid

    studies = tmp_path / "studies"
    studies.mkdir()
    series = generate_uid()
    ds = dcmread(examples.get_path("rgb_color"))
    ds.SeriesInstanceUID = series
    for number in range(3):
        ds.SOPInstanceUID = ds.file_meta.MediaStorageSOPInstanceUID = generate_uid()
        ds.save_as(studies / f"{number}.dcm")
    bench = Workbench(settings_of(str(studies), {"work": str(tmp_path / "work")}))
    found = FrameDatastore(bench)
    try:
        target = found.images.find(str(series))
        shape = next(read(studies / "0.dcm")).image.shape
        assert target.shape == (3, *shape)
        pixels = sitk.GetArrayFromImage(sitk.ReadImage(found.get_image_uri(str(series))))
        assert np.array_equal(pixels[1], next(read(studies / "1.dcm")).image)
        other = dcmread(examples.get_path("ybr_color"))
        other.SeriesInstanceUID = series
        other.save_as(studies / "cine.dcm")
        found.refresh()
        with pytest.raises(ConflictError, match="4 files"):
            found.images.find(str(series))
    finally:
        found.close()
        bench.close()


def test_an_uploaded_image_is_read_by_the_name_it_was_sent_under(store, tmp_path) -> None:
    Image.fromarray(one()).save(tmp_path / "scene.png")
    id = store.add_image("Volume 1", str(tmp_path / "scene.png"), {"comment": "x"})
    assert np.array_equal(np.array(Image.open(store.get_image_uri("Volume 1"))), one())
    assert store.get_image_info(id)["comment"] == "x"
    assert store.get_image(id).getvalue()[:4] == b"\x89PNG"
    for name in ("../up", "a/b", ".hidden", "a\\b", "a\nb"):
        with pytest.raises(InvalidIdError):
            store.add_image(name, str(tmp_path / "scene.png"), {})
    store.remove_image("Volume 1")
    with pytest.raises(AnnotationError):
        store.get_image_uri("Volume 1")
    with pytest.raises(ConflictError):
        store.remove_image(next(image for image in store.list_images() if "gray" in image))


def test_a_page_is_no_image_and_no_label(store, cine, tmp_path) -> None:
    (tmp_path / "page.png").write_bytes(b"<html>")
    with pytest.raises(Exception, match="no image"):
        store.add_image("page", str(tmp_path / "page.png"), {})
    with pytest.raises(InvalidLabelError, match="no label"):
        store.save_label(f"{cine}.f00001", str(tmp_path / "page.png"), "final", {})
    assert io.BytesIO(store.get_label(f"{cine}.f00001", "final").getvalue()).read(4) == b"\x89PNG"


def test_the_last_masks_of_clicks_are_few_and_exact() -> None:
    last, mask = LastAnswers(8, most_bytes=1000), np.random.default_rng(0).random((50, 70)) > 0.5
    first, more = Prompts(positive=((1.0, 2.0),)), Prompts(positive=((1.0, 2.0), (3.0, 4.0)))
    keys = [("anna", FrameId("a", at), "") for at in range(4)]
    for key in keys:
        last.keep(key, first, mask)
    kept = [last.continued(key, more).mask for key in keys]
    assert [each is not None for each in kept] == [False, False, True, True]  # of 438 bytes each
    np.testing.assert_array_equal(kept[-1], mask)
    assert last.continued(keys[-1], first).mask is None

"""What is exported and imported into an empty store is the same, in each form; a mistake of one frame stays its own."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from pathlib import Path

import exchange_case as case
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from sonodistill.annotate.errors import AnnotationError, ConflictError
from sonodistill.annotate.exchange import FORMS, export, import_labels, pack
from sonodistill.annotate.ids import FrameId
from sonodistill.annotate.model import MODEL, Status

DRAWN = st.sampled_from([Status.ACCEPTED, Status.EDITED, Status.PROPAGATED])


@pytest.fixture(scope="module")
def catalogue(tmp_path_factory) -> Iterator:
    found = case.studies(tmp_path_factory.mktemp("exchange"))
    yield found
    found.close()


@pytest.fixture
def labels(tmp_path) -> Iterator:
    found = case.store(tmp_path)
    yield found
    found.close()


def again(catalogue, folder: Path, names=case.NAMES, **more):
    """(store, report) of an import into an empty store."""
    empty = case.store(Path(tempfile.mkdtemp(dir=folder.parent)), names)
    return empty, import_labels(catalogue, empty, folder, **{"annotator": None, **more})


@pytest.mark.parametrize("form", FORMS)
@settings(max_examples=4, deadline=None)
@given(data=st.data())
def test_random_masks_of_a_cine_and_a_still(catalogue, form, data):
    frames = data.draw(st.sets(st.integers(0, 29), min_size=1, max_size=3), "frames of the cine")
    cine, still = case.named(catalogue, "ybr"), case.named(catalogue, "palette")
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        labels = case.store(folder)
        for item, index in [(cine, index) for index in sorted(frames)] + [(still, 0)]:
            rng = np.random.default_rng(data.draw(st.integers(0, 1 << 32), "seed"))
            density = data.draw(st.sampled_from([0.0, 0.002, 0.5, 1.0]), "density")
            mask = np.where(rng.random(case.shape_of(catalogue, item)) < density, rng.integers(1, 3), 0)
            mask[: rng.integers(1, 90), : rng.integers(1, 90)] = data.draw(st.integers(0, 2), "corner")
            labels.save(FrameId(item.id, index), mask, status=data.draw(DRAWN), annotator="alice")
        assert not export(catalogue, labels, folder / "out", form, statuses=case.EVERY).skipped
        empty, report = again(catalogue, folder / "out")
        assert (report.skipped, len(report.written)) == ([], len(frames) + 1)
        case.assert_same(labels, empty)
        labels.close()
        empty.close()


@pytest.mark.parametrize("form", FORMS)
def test_every_status_and_every_kind_of_item(catalogue, labels, form, tmp_path):
    cine = case.named(catalogue, "ybr")
    case.say(catalogue, labels, cine, 0, classification="benign", model="interactive 3", confidence=0.5)
    case.say(catalogue, labels, cine, 3, status=Status.EDITED, info={"tool": {"name": "brush", "sizes": [1, 2]}})
    case.say(catalogue, labels, cine, 4, status=Status.PROPAGATED, model="interactive 3", confidence=0.75)
    case.say(catalogue, labels, cine, 5, status=Status.PREDICTED, annotator=MODEL, model="segmentation 1")
    labels.save(FrameId(cine.id, 9), np.zeros((240, 320), bool), status=Status.ACCEPTED, annotator="alice")
    labels.save(FrameId(cine.id, 10), None, status=Status.SKIPPED, annotator="alice")
    labels.save(FrameId(cine.id, 11), None, status=Status.ACCEPTED, annotator="alice", classification="normal")
    others = ["palette"] if form == "seg" else ["palette", "still", "pages", "volume"]
    for name in others:
        case.say(catalogue, labels, case.named(catalogue, name), 0, seed=len(name))
    report = export(catalogue, labels, tmp_path / "out", form, statuses=case.EVERY)
    assert (report.skipped, len(report.written)) == ([], 7 + len(others))
    empty, report = again(catalogue, tmp_path / "out")
    assert (report.skipped, len(report.written)) == ([], 7 + len(others))
    case.assert_same(labels, empty)
    assert [row.annotator for row in empty.rows()] == [row.annotator for row in labels.rows()]
    assert empty.get(FrameId(cine.id, 3)).row.info["tool"] == {"name": "brush", "sizes": [1, 2]}
    assert empty.get(FrameId(cine.id, 12)) is None
    empty.close()


@pytest.mark.parametrize("form", FORMS)
def test_a_store_that_numbers_its_labels_otherwise(catalogue, labels, form, tmp_path):
    still = case.named(catalogue, "palette")
    case.say(catalogue, labels, still, 0)
    export(catalogue, labels, tmp_path / "out", form)
    empty, report = again(catalogue, tmp_path / "out", ("vessel", *reversed(case.NAMES)), annotator="bob")
    assert report.skipped == []
    theirs, ours = empty.get(FrameId(still.id, 0), "bob"), labels.get(FrameId(still.id, 0))
    assert np.array_equal(theirs.mask, np.array([0, 3, 2], np.uint8)[ours.mask])
    assert theirs.row.info["imported"] == {"from": form, "annotator": "alice", "time": ours.row.time}
    empty.close()


@pytest.mark.parametrize("form", FORMS)
def test_a_label_that_is_not_known_here_is_refused_and_the_others_go_on(catalogue, labels, form, tmp_path):
    cine = case.named(catalogue, "ybr")
    case.say(catalogue, labels, cine, 0)
    only_first = (case.blobs((240, 320)) == 1).astype(np.uint8)
    labels.save(FrameId(cine.id, 1), only_first, status=Status.ACCEPTED, annotator="alice")
    export(catalogue, labels, tmp_path / "out", form)
    empty, report = again(catalogue, tmp_path / "out", ("lesion",))
    assert report.written == [str(FrameId(cine.id, 1))]
    ((what, reason),) = report.skipped
    assert what == str(FrameId(cine.id, 0))
    assert "acoustic shadow" in reason
    empty.close()


@pytest.mark.parametrize("form", FORMS)
def test_a_zip_file_and_a_second_time(catalogue, labels, form, tmp_path):
    case.say(catalogue, labels, case.named(catalogue, "ybr"), 7)
    export(catalogue, labels, tmp_path / "out", form, images=True)
    pack(tmp_path / "out", tmp_path / "out.zip")
    empty, report = again(catalogue, tmp_path / "out.zip")
    assert (len(report.written), report.skipped) == (1, [])
    revision = empty.revision()
    report = import_labels(catalogue, empty, tmp_path / "out.zip", annotator=None)
    assert (report.written, len(report.unchanged), report.skipped) == ([], 1, [])
    assert empty.revision() == revision
    empty.close()


def test_only_what_is_asked_for_is_exported(catalogue, labels, tmp_path):
    cine = case.named(catalogue, "ybr")
    case.say(catalogue, labels, cine, 0, seed=1)
    case.say(catalogue, labels, cine, 0, seed=2, annotator="bob")
    case.say(catalogue, labels, cine, 1, status=Status.EDITED)
    accepted, by_alice = [FrameId(cine.id, 0)], labels.rows(annotator="alice")
    export(catalogue, labels, tmp_path / "final", "png")
    empty, _ = again(catalogue, tmp_path / "final")
    assert [(row.frame, row.annotator) for row in empty.rows()] == [(accepted[0], "bob")]  # the newest
    empty.close()
    export(catalogue, labels, tmp_path / "alice", "png", statuses=case.EVERY, annotator="alice")
    empty, _ = again(catalogue, tmp_path / "alice")
    case.assert_same(labels, empty, by_alice)
    empty.close()


def test_a_newer_label_is_not_replaced_unasked(catalogue, labels, tmp_path):
    frame = FrameId(case.named(catalogue, "ybr").id, 0)
    case.say(catalogue, labels, case.named(catalogue, "ybr"), 0, seed=1)
    export(catalogue, labels, tmp_path / "out", "png")
    # As old as the export: a corrected mask replaces it.
    corrected = case.blobs((240, 320), seed=2)
    Image.fromarray(corrected).save(tmp_path / "out" / "masks" / f"{frame}.png")
    assert import_labels(catalogue, labels, tmp_path / "out", annotator="alice").written == [str(frame)]
    assert np.array_equal(labels.get(frame).mask, corrected)
    # Newer than the export.
    case.say(catalogue, labels, case.named(catalogue, "ybr"), 0, seed=3)
    ((_, reason),) = import_labels(catalogue, labels, tmp_path / "out", annotator="alice").skipped
    assert "newer" in reason
    assert np.array_equal(labels.get(frame).mask, case.blobs((240, 320), seed=3))
    assert import_labels(catalogue, labels, tmp_path / "out", annotator="alice", replace=True).written == [str(frame)]
    assert len(labels.history(frame)) == 4


def test_who_imports_decides_on_the_status_but_a_model_accepts_nothing(catalogue, labels, tmp_path):
    cine = case.named(catalogue, "ybr")
    case.say(catalogue, labels, cine, 0)
    case.say(catalogue, labels, cine, 1, status=Status.PREDICTED, annotator=MODEL)
    labels.save(FrameId(cine.id, 2), None, status=Status.SKIPPED, annotator="alice")
    export(catalogue, labels, tmp_path / "out", "nifti", statuses=case.EVERY)
    empty, report = again(catalogue, tmp_path / "out", annotator="bob", status=Status.EDITED)
    assert report.skipped == []
    said = [(row.frame.index, row.annotator, row.status) for row in empty.rows()]
    assert said == [(0, "bob", Status.EDITED), (1, "bob", Status.EDITED), (2, "bob", Status.SKIPPED)]
    with pytest.raises(AnnotationError, match="a model cannot import"):
        import_labels(catalogue, empty, tmp_path / "out", annotator=MODEL)
    empty.close()


def test_files_that_changed_or_went_are_named(tmp_path):
    catalogue = case.studies(tmp_path)
    labels = case.store(tmp_path)
    still, pages = case.named(catalogue, "still"), case.named(catalogue, "pages")
    case.say(catalogue, labels, still, 0)
    case.say(catalogue, labels, pages, 1)
    labels.save(FrameId(pages.id, 0), np.zeros((9, 9), bool), status=Status.ACCEPTED, annotator="alice")
    labels.save(FrameId("gone-0123456789", 3), np.zeros((9, 9), bool), status=Status.ACCEPTED, annotator="alice")
    still.path.write_bytes(still.path.read_bytes()[:200])
    report = export(catalogue, labels, tmp_path / "out", "coco")
    assert report.written == [str(FrameId(pages.id, 1))]
    assert {what for what, _ in report.skipped} == {
        "gone-0123456789.f00003",
        str(FrameId(still.id, 0)),
        str(FrameId(pages.id, 0)),
    }
    assert any("(9, 9)" in reason for _, reason in report.skipped)
    labels.close()
    catalogue.close()


def test_a_folder_is_not_written_over(catalogue, labels, tmp_path):
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "thesis.doc").touch()
    with pytest.raises(ConflictError, match="not empty"):
        export(catalogue, labels, tmp_path / "out", "png")
    with pytest.raises(AnnotationError, match="no form 'tiff'"):
        export(catalogue, labels, tmp_path / "new", "tiff")
    assert not (tmp_path / "new").exists()

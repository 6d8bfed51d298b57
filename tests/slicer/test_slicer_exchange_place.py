"""Files that do not say which frame of a cine they are of: a mask goes to one frame, or is left out with the reason."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("slicer_core", reason="needs slicer-core: pip install slicer-core")

from slicer_cines import cine_of, square
from UltrasoundSegmentLib.exchange.coco import import_coco
from UltrasoundSegmentLib.exchange.errors import NotLabelsError
from UltrasoundSegmentLib.exchange.exports import export
from UltrasoundSegmentLib.exchange.png import import_png
from UltrasoundSegmentLib.exchange.seg_load import _Places
from UltrasoundSegmentLib.exchange.seg_nrrd import import_seg_nrrd
from UltrasoundSegmentLib.masks.status import Status
from UltrasoundSegmentLib.masks.store import MaskStore

import slicer

SIZE = (48, 64)


def test_a_file_of_one_slice_is_of_the_frame_on_display_and_of_no_other(scene, tmp_path):
    cine = cine_of(scene, count=4)
    store = MaskStore.of(cine, ["lesion"])
    store.write(1, square(SIZE, 5, 6, 9), Status.EDITED, annotator="anna")
    cine.select(1)
    node = scene.AddNewNodeByClass("vtkMRMLSegmentationNode")
    node.Copy(store.segmentation_proxy())
    storage = slicer.vtkMRMLSegmentationStorageNode()
    scene.AddNode(storage)
    storage.SetFileName(str(tmp_path / "own.seg.nrrd"))
    assert storage.WriteData(node)

    other = cine_of(scene, count=4)
    theirs = MaskStore.of(other, ["lesion"])
    other.select(2)
    report = import_seg_nrrd(tmp_path / "own.seg.nrrd", other, theirs)
    assert theirs.statuses() == [Status.EMPTY, Status.EMPTY, Status.EDITED, Status.EMPTY]
    np.testing.assert_array_equal(theirs.mask(2), store.mask(1))
    assert len(report.written) == 1 and len(report.skipped) == 3


def test_a_file_of_several_slices_is_of_no_frame_of_a_cine(scene, tmp_path):
    cine = cine_of(scene, count=3)
    store = MaskStore.of(cine, ["lesion"])
    store.write(0, square(SIZE, 5, 6, 9), Status.EDITED, annotator="anna")
    (path,) = export(cine, store, tmp_path, "seg.nrrd").files
    content = Path(path).read_bytes().replace(b"\nSonoDistill:=", b"\nSomething:=")
    (tmp_path / "foreign.seg.nrrd").write_bytes(content)
    theirs = MaskStore.of(cine_of(scene, count=3), ["lesion"])
    report = import_seg_nrrd(tmp_path / "foreign.seg.nrrd", theirs.cine, theirs)
    assert set(theirs.statuses()) == {Status.EMPTY}
    assert len(report.skipped) == 3


def test_frames_that_name_all_of_their_files_are_not_guessed(scene):
    cine = cine_of(scene, count=3)
    for index in range(3):
        cine.volume(index).SetAttribute("DICOM.instanceUIDs", "1.2.1 1.2.2 1.2.3")
    places = _Places(cine)
    assert places.knows("1.2.3")
    with pytest.raises(NotLabelsError, match="several images"):
        places.index(("1.2.3", 1))


@pytest.mark.parametrize(("form", "read"), [("png", import_png), ("coco", import_coco), ("seg.nrrd", import_seg_nrrd)])
def test_labels_of_another_patients_file_of_the_same_name_are_refused(scene, tmp_path, form, read):
    stores = []
    for uid in ("1.2.3", "1.2.4", "1.2.3"):
        cine = cine_of(scene, count=2)
        cine.set_attribute("file", f"/exports/{uid}/IM_0001.dcm")
        for index in range(2):
            cine.volume(index).SetAttribute("DICOM.instanceUIDs", uid)
        stores.append(MaskStore.of(cine, ["lesion"]))
    ours, others, again = stores
    ours.write(0, square(SIZE, 5, 6, 9), Status.ACCEPTED, annotator="anna")
    export(ours.cine, ours, tmp_path, form)
    path = tmp_path if form != "seg.nrrd" else next(tmp_path.glob("*.nrrd"))
    report = read(path, others.cine, others)
    assert set(others.statuses()) == {Status.EMPTY} and "same name" in report.skipped[0].reason
    assert b"1.2.3" not in b"".join(each.read_bytes() for each in tmp_path.rglob("*.json"))
    read(path, again.cine, again)
    assert again.status(0) is Status.ACCEPTED

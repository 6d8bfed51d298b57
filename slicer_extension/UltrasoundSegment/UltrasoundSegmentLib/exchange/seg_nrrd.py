"""Labels as a segmentation file of 3D Slicer (.seg.nrrd), which SimpleITK and others read as a label volume."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

import slicer
from UltrasoundSegmentLib.errors import SegmentError
from UltrasoundSegmentLib.exchange import nrrd
from UltrasoundSegmentLib.exchange.errors import NotLabelsError
from UltrasoundSegmentLib.exchange.exports import file_in
from UltrasoundSegmentLib.exchange.records import (
    Said,
    check_head,
    entries,
    frame_id,
    head,
    parse_json,
    record_of,
    said_in,
    to_json,
)
from UltrasoundSegmentLib.exchange.report import Report
from UltrasoundSegmentLib.exchange.take import Taker
from UltrasoundSegmentLib.frames.image import matrix_of
from UltrasoundSegmentLib.masks import pixels
from UltrasoundSegmentLib.masks.status import Status
from UltrasoundSegmentLib.masks.steps import Steps, finish
from UltrasoundSegmentLib.masks.store import MaskStore

FORM = "seg.nrrd"
KEY = "SonoDistill"
"""Of the header, with the frames that are labelled, their status and time as JSON: a slice of zeros does not say."""


def write(cine: Any, store: MaskStore, indices: Sequence[int], out: Path, report: Report) -> Steps[None]:
    """One file with a slice for every frame of the cine, those of other frames being empty.

    Where the frames are parallel and evenly spaced, as in a sweep, the slices lie where they lay. Else the third axis
    counts frames, a millimetre each, and the header says so (``third_axis``: "frames"). A cine without a scale has
    the pixels of the scene, which are not millimetres: ``mm_per_pixel`` of its frames is null.
    """
    grid, third = _grid(np.stack([matrix_of(cine.volume(index)) for index in range(cine.count)]))
    shapes = {cine.volume(index).GetImageData().GetDimensions()[1::-1] for index in indices}
    if len(shapes) > 1:
        raise SegmentError("The frames are of several sizes, and a volume has one: export them as PNG or COCO.")
    labels = np.zeros((cine.count, *shapes.pop()), np.uint8)
    records = []
    for index in indices:
        has_mask = store.status(index) is not Status.SKIPPED
        records.append({**record_of(cine, store, index), "mask": has_mask})
        if has_mask:
            labels[index] = store.mask(index)
        report.written.append(frame_id(cine, index))
        yield
    said = {**head(FORM, store.labels), "third_axis": third, "frames": records}
    path = file_in(cine, out, FORM)
    yield from nrrd.write(path, labels, grid, {**_segments(store, labels.shape), KEY: to_json(said).decode()})
    report.files.append(str(path))


def import_seg_nrrd(path: str | Path, cine: Any, store: MaskStore, *, replace: bool = False) -> Report:
    """``import_seg_nrrd_steps`` all at once."""
    return finish(import_seg_nrrd_steps(path, cine, store, replace=replace))


def import_seg_nrrd_steps(path: str | Path, cine: Any, store: MaskStore, *, replace: bool = False) -> Steps[Report]:
    """Take over the labels of a .seg.nrrd file: ours by frame, any other's where its voxels lie on the frames.

    Of another's the frames become EDITED on which anything is drawn: of the rest it does not say that anybody looked.
    Where frames lie over each other, as those of a cine do, it does not say which one is meant: a file of one slice
    is taken for the frame on display, others are left out.

    Args:
        path: what to read.
        cine, store: they go into.
        replace: a person's label that is here already, too.

    Errors: NotLabelsError, ExchangeError for a file that is none.
    """
    path, report = Path(path), Report()
    fields = nrrd.read_fields(path)
    if KEY not in fields:
        nrrd.check(path)
        yield from _take_by_place(path, cine, store, replace, report, fields["sizes"].split()[-1] == "1")
        return report
    said = parse_json(fields[KEY].encode(), path.name)
    names = check_head(said, FORM)
    records = entries(said, "frames")
    labels = yield from nrrd.read(path)
    taker = Taker(cine, store, names, replace=replace, report=report)
    for number, record in enumerate(records, 1):
        what = f"{path.name}, entry {number}"
        try:
            if not isinstance(record, dict) or not isinstance(record.get("frame"), str):
                raise NotLabelsError("it names no frame")
            what, index = record["frame"], record.get("index")
            if type(index) is not int or not 0 <= index < len(labels):
                raise NotLabelsError("it has no such slice")
            taker.frame(what, labels[index] if record.get("mask") else None, said_in(record))
        except SegmentError as error:
            report.skip(what, error)
        yield
    return report


def _take_by_place(
    path: Path, cine: Any, store: MaskStore, replace: bool, report: Report, one_slice: bool
) -> Steps[None]:
    scene = cine.scene
    node = scene.AddNewNodeByClass("vtkMRMLSegmentationNode", scene.GenerateUniqueName("import"))
    storage = slicer.vtkMRMLSegmentationStorageNode()
    scene.AddNode(storage)
    storage.SetFileName(str(path))
    try:
        if not storage.ReadData(node):
            raise NotLabelsError(f"“{path.name}” cannot be read as a segmentation.")
        segmentation = node.GetSegmentation()
        ids = list(segmentation.GetSegmentIDs())
        names = tuple(segmentation.GetSegment(each).GetName() for each in ids)
        if not ids or len(ids) > 255 or len(set(names)) < len(names):
            raise NotLabelsError(f"“{path.name}” has no segments, two of one name, or more than 255.")
        taker = Taker(cine, store, names, replace=replace, report=report)
        selected = cine.selected
        places = [(np.round(matrix_of(cine.volume(index)), 4) + 0.0).tobytes() for index in range(cine.count)]
        for index, place in enumerate(places):
            shape = store.mask(index).shape
            mask = pixels.read(segmentation, ids, shape, matrix_of(cine.volume(index)))
            if mask.any() and places.count(place) > 1 and not (one_slice and index == selected):
                report.skip(frame_id(cine, index), "it lies over others, and the file does not say which is meant")
            elif mask.any():
                taker.index(index, mask, Said(Status.EDITED), frame_id(cine, index))
            yield
    finally:
        for each in (node.GetDisplayNode(), storage, node):
            if each is not None:
                scene.RemoveNode(each)


def _grid(matrices: NDArray[np.float64]) -> tuple[NDArray[np.float64], str]:
    """((4, 4) of the volume of the frames, "space" or "frames")."""
    grid = matrices[0].copy()
    if len(matrices) > 1:
        steps = np.diff(matrices[:, :3, 3], axis=0)
        parallel = np.abs(matrices[:, :3, :2] - matrices[0, :3, :2]).max() < 1e-6
        if parallel and np.abs(steps - steps[0]).max() < 1e-4:
            grid[:3, 2] = steps.mean(axis=0)
            if abs(np.linalg.det(grid[:3, :3])) > 1e-9:
                return grid, "space"
    normal = np.cross(grid[:3, 0], grid[:3, 1])
    grid[:3, 2] = normal / np.linalg.norm(normal)
    return grid, "frames"


def _segments(store: MaskStore, shape: tuple[int, ...]) -> dict[str, str]:
    """Fields of the segments, as vtkMRMLSegmentationStorageNode writes them."""
    extent = " ".join(f"0 {size - 1}" for size in reversed(shape))
    segmentation = store.sequence.GetNthDataNode(0).GetSegmentation()
    fields = {
        "Segmentation_MasterRepresentation": pixels.BINARY,
        "Segmentation_ContainedRepresentationNames": f"{pixels.BINARY}|",
        "Segmentation_ConversionParameters": "",
        "Segmentation_ReferenceImageExtentOffset": "0 0 0",
    }
    for place, (segment_id, name) in enumerate(zip(store.segment_ids, store.labels, strict=True)):
        colour = segmentation.GetSegment(segment_id).GetColor()
        fields |= {
            f"Segment{place}_ID": segment_id,
            f"Segment{place}_Name": name,
            f"Segment{place}_Color": " ".join(f"{value:.6g}" for value in colour),
            f"Segment{place}_ColorAutoGenerated": "0",
            f"Segment{place}_NameAutoGenerated": "0",
            f"Segment{place}_LabelValue": str(place + 1),
            f"Segment{place}_Layer": "0",
            f"Segment{place}_Extent": extent,
            f"Segment{place}_Tags": "|",
        }
    return fields

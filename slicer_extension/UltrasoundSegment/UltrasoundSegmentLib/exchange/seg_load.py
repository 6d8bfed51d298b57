"""Reads a DICOM Segmentation of an ultrasound cine and puts every frame's mask where it belongs; pydicom is enough."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

from UltrasoundSegmentLib.errors import SegmentError
from UltrasoundSegmentLib.exchange.dicom_seg import FORM, PRIVATE_CREATOR, PRIVATE_ELEMENT, PRIVATE_GROUP
from UltrasoundSegmentLib.exchange.errors import NotLabelsError, OtherImageError
from UltrasoundSegmentLib.exchange.records import Said, check_head, entries, frame_id, parse_json, said_in
from UltrasoundSegmentLib.exchange.report import Report
from UltrasoundSegmentLib.exchange.seg_parse import Place, Segmentation, mask_of, read_segmentation
from UltrasoundSegmentLib.exchange.take import Taker
from UltrasoundSegmentLib.frames.cine import Cine, NotACineError
from UltrasoundSegmentLib.masks.status import Status
from UltrasoundSegmentLib.masks.steps import Steps, beside, finish
from UltrasoundSegmentLib.masks.store import MODEL, MaskStore


def load_dicom_seg(
    path: str | Path, target: Any, store: MaskStore | None = None, *, replace: bool = False
) -> tuple[Cine, MaskStore, Report]:
    """``load_dicom_seg_steps`` all at once."""
    return finish(load_dicom_seg_steps(path, target, store, replace=replace))


def load_dicom_seg_steps(
    path: str | Path, target: Any, store: MaskStore | None = None, *, replace: bool = False
) -> Steps[tuple[Cine, MaskStore, Report]]:
    """Take over the masks of a binary segmentation or a label map, ours or another's.

    A mask goes to the frame that Derivation Image names, by SOP Instance UID and frame number (PS3.3 C.7.6.16.2.6).
    Frames that the segmentation has no frame of stay as they are. What ours say of status, annotator and time is kept;
    of another's, AUTOMATIC segments are a prediction, and what people made is EDITED until somebody accepts it.

    Args:
        path: of the file.
        target: the Cine it is of; or a scene, in which the cine is looked for.
        store: of that cine, made where there is none.
        replace: a person's label that is here already, too.

    Returns:
        (the cine, its store, what became of each frame).

    Errors: NotLabelsError for what is no such segmentation, OtherImageError for one of another image,
        MissingPackageError without pydicom.
    """
    path = Path(path)
    found = yield from beside(partial(read_segmentation, path))
    cine = target if hasattr(target, "browser") else _cine_of(target, found, path.name)
    rows, columns = found.shape
    width, height = cine.volume(0).GetImageData().GetDimensions()[:2]
    places = _Places(cine)
    if not any(places.knows(uid) for uid, _ in found.places):
        raise OtherImageError(
            f"“{path.name}” is of the image {next(iter(found.places))[0]}, not of “{cine.name}”: open that image first."
        )
    if (rows, columns) != (height, width):
        raise OtherImageError(
            f"“{path.name}” is {rows} x {columns} pixels, the frames of “{cine.name}” {height} x {width}."
        )
    records, names = _kept(found)
    names = names if len(names) == len(found.names) else found.names
    store = store or MaskStore.of(cine, names)
    report = Report()
    taker = Taker(cine, store, names, replace=replace, report=report)
    for place, segments in sorted(found.places.items(), key=lambda each: (each[0][0], each[0][1] or 0)):
        what = f"{path.name}, frame {place[1] or 1} of {place[0]}"
        try:
            index = places.index(place)
            what = frame_id(cine, index)
            record = records.pop(index, None)
            taker.index(index, mask_of(found, segments), said_in(record) if record else _said(found), what)
        except SegmentError as error:
            report.skip(what, error)
        yield
    for index, record in records.items():
        what = frame_id(cine, index) if 0 <= index < cine.count else f"{path.name}, frame {index + 1}"
        try:
            if record.get("mask"):
                raise NotLabelsError("the segmentation has lost its frame")
            taker.index(index, None, said_in(record), what)
        except SegmentError as error:
            report.skip(what, error)
    return cine, store, report


class _Places:
    """Frames of a cine by what DICOM calls them."""

    def __init__(self, cine: Any) -> None:
        self._cine = cine
        self._of: dict[str, list[int]] = {}
        self._unclear: set[str] = set()
        for index in range(cine.count):
            uids = set((cine.volume(index).GetAttribute("DICOM.instanceUIDs") or cine.key).split())
            for uid in uids:
                self._of.setdefault(uid, []).append(index)
            if len(uids) > 1 and cine.count > 1:
                self._unclear |= uids  # each frame names all of the files

    def knows(self, uid: str) -> bool:
        return uid in self._of

    def index(self, place: Place) -> int:
        """Errors: OtherImageError."""
        uid, number = place
        indices = self._of.get(uid)
        if indices is None:
            raise OtherImageError("it is of another image")
        if uid in self._unclear:
            raise NotLabelsError("each frame of the cine names several images, so that its frame cannot be told")
        if len(indices) == 1 and number in (None, 1):
            return indices[0]
        if number is None:
            raise NotLabelsError("it does not say which frame of the cine it is of")
        if number > len(indices):
            raise OtherImageError(f"the cine has {len(indices)} frames, and it is of frame {number}")
        return indices[number - 1]


def _cine_of(scene: Any, found: Segmentation, name: str) -> Cine:
    """The cine of a scene that a segmentation is of."""
    uids = {uid for uid, _ in found.places}
    for cine in _cines(scene):
        if any(_Places(cine).knows(uid) for uid in uids):
            return cine
    raise OtherImageError(f"“{name}” is of the image {min(uids)}, which is not open: open that image first.")


def _cines(scene: Any) -> Iterator[Cine]:
    for number in range(scene.GetNumberOfNodesByClass("vtkMRMLSequenceBrowserNode")):
        try:
            yield Cine(scene.GetNthNodeByClass(number, "vtkMRMLSequenceBrowserNode"))
        except NotACineError:
            continue


def _said(found: Segmentation) -> Said:
    if found.automatic:
        return Said(Status.PREDICTED, MODEL, model=found.algorithm)
    return Said(Status.EDITED, found.creator)


def _kept(found: Segmentation) -> tuple[dict[int, dict[str, Any]], tuple[str, ...]]:
    """(records by frame from 0, label names) of our private attribute; nothing where it is not there."""
    try:
        text = str(found.ds.private_block(PRIVATE_GROUP, PRIVATE_CREATOR)[PRIVATE_ELEMENT].value)
    except KeyError:
        return {}, ()
    said = parse_json(text.encode(), "what the segmentation says of its frames")
    names = check_head(said, FORM)
    listed = entries(said, "frames")
    records = {each["index"]: each for each in listed if isinstance(each, dict) and type(each.get("index")) is int}
    if len(records) != len(listed):
        raise NotLabelsError("What the segmentation says of its frames is malformed.")
    return records, names

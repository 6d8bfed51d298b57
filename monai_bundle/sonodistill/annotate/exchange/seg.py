"""Labels as DICOM Segmentation, one of each DICOM item, with those frames that are labelled."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
from pydicom.dataset import Dataset

from sonodistill import __version__
from sonodistill.annotate.errors import AnnotationError
from sonodistill.annotate.exchange.choose import Export
from sonodistill.annotate.exchange.records import head, record_of, to_json
from sonodistill.annotate.model import MODEL, Item, Label, LabelRow, Status
from sonodistill.dicom.algorithm import ABNORMAL, LESION, TISSUE, Algorithm, AlgorithmType, Segment
from sonodistill.dicom.findings import Findings, Masks
from sonodistill.dicom.source import read_source
from sonodistill.errors import SonoDistillError

FORM = "seg"
PRIVATE_GROUP, PRIVATE_CREATOR, PRIVATE_ELEMENT = 0x0099, "SONODISTILL LABELS", 0x01
"""Where a segmentation keeps the JSON of its labels: status, annotator, time and class of each frame, and the frames
that have no mask. What drops private attributes drops this, and the masks and their frames remain."""

_LESIONS = frozenset({"lesion", "mass", "nodule", "tumor", "tumour", "cyst"})


def write(export: Export) -> None:
    """``<item>.dcm`` for each DICOM item: a binary segmentation (PS3.3 A.51), checked after it was written.

    Every label is a segment; every labelled frame is there in each, also where it is empty, and no other frame is. It
    is MANUAL where people drew all of it, SEMIAUTOMATIC where a model proposed or carried on any of it, AUTOMATIC where
    nobody looked at it. Items that are no ultrasound DICOM, or have no mask, are skipped.
    """
    for item in export.chosen:
        labels: list[tuple[Label, dict[str, Any]]] = []
        try:
            if item.kind != "dicom":
                raise AnnotationError("it is no DICOM instance that a segmentation could refer to")
            for row in export.chosen[item]:
                label = export.label(row)
                record = {**record_of(item, label.row, None), "mask": label.mask is not None}
                del record["name"]  # of a file, which may be a patient's, and this may be sent away
                labels.append((label, record))
            _write_item(export, item, [label for label, _ in labels], [record for _, record in labels])
        except SonoDistillError as error:
            for row in export.chosen[item]:
                export.report.skip(row.frame, error.message)
        else:
            export.report.written += [str(label.row.frame) for label, _ in labels]


def _write_item(export: Export, item: Item, labels: Sequence[Label], records: list[dict[str, Any]]) -> None:
    try:
        from sonodistill.dicom.write.check import check_references, check_segmentation
        from sonodistill.dicom.write.common import write_file
        from sonodistill.dicom.write.seg import segmentation
    except ImportError as error:
        raise AnnotationError(f"DICOM cannot be written ({error})", remedy="pip install sonodistill[dicom]") from None
    findings = _findings(export.catalogue.file(item), labels, export.store.names)
    ds = segmentation(findings)
    said = {**head(FORM, export.store.names, export.store.classes), "item": item.id, "frames": records}
    _keep(ds, to_json(said))
    path = export.out / f"{item.id}.dcm"
    write_file(ds, path)
    try:
        check_segmentation(path, findings)
        check_references(path, findings)
    except SonoDistillError:
        path.unlink(missing_ok=True)
        raise


def _findings(path: Path, labels: Sequence[Label], names: Sequence[str]) -> Findings:
    source = read_source(path)
    drawn = [(label.row, label.mask) for label in labels if label.mask is not None]
    if not drawn:
        raise AnnotationError("none of its frames has a mask")
    masks = Masks(len(names), source.rows, source.columns)
    digest = hashlib.sha256()
    numbers = np.arange(1, len(names) + 1, dtype=np.uint8)[:, np.newaxis, np.newaxis]
    nothing = np.zeros(0, np.float32)
    for row, mask in drawn:
        if mask.shape != (source.rows, source.columns):
            raise AnnotationError(f"a mask is {mask.shape}, the image {source.rows} x {source.columns}")
        masks.append(mask == numbers, nothing)
        digest.update(f"{row.frame.index} {row.status.value} {row.annotator}\n".encode())
        digest.update(mask.tobytes())
    algorithm = _algorithm([row for row, _ in drawn], names, digest.hexdigest())
    return Findings(source, algorithm, masks, frames=tuple(row.frame.index for row, _ in drawn))


def _algorithm(rows: Sequence[LabelRow], names: Sequence[str], digest: str) -> Algorithm:
    people = tuple(sorted({row.annotator for row in rows} - {MODEL}))
    models = sorted({row.model for row in rows} - {""})
    by_model = models or any(row.status in (Status.PREDICTED, Status.PROPAGATED) for row in rows)
    kind: AlgorithmType = "SEMIAUTOMATIC" if by_model else "MANUAL"
    return Algorithm(
        name=", ".join(models) or "annotation",
        version=__version__,
        weights_sha256="",
        segments=tuple(_segment(name) for name in names),
        software=(f"SonoDistill {__version__}", f"pydicom {version('pydicom')}"),
        kind=kind if people else "AUTOMATIC",
        people=people,
        content_sha256=digest,
    )


def _segment(name: str) -> Segment:
    if name.casefold() in _LESIONS:
        return Segment(name, ABNORMAL, LESION)
    return Segment(name, TISSUE, TISSUE)


def _keep(ds: Dataset, text: str) -> None:
    block = ds.private_block(PRIVATE_GROUP, PRIVATE_CREATOR, create=True)
    block.add_new(PRIVATE_ELEMENT, "UT", text)

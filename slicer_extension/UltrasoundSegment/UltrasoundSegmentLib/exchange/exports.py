"""Write the labels of a cine in one of the forms that other programs read."""

from __future__ import annotations

from collections.abc import Collection
from importlib import import_module
from pathlib import Path
from typing import Any

from UltrasoundSegmentLib.exchange.errors import ExchangeError
from UltrasoundSegmentLib.exchange.records import frame_id, item_of
from UltrasoundSegmentLib.exchange.report import Report
from UltrasoundSegmentLib.masks.status import Status
from UltrasoundSegmentLib.masks.steps import Steps, finish
from UltrasoundSegmentLib.masks.store import MaskStore

FORMS = {"seg.nrrd": "seg_nrrd", "png": "png", "coco": "coco", "dicom_seg": "dicom_seg"}
"""Module by form."""
SUFFIXES = {"seg.nrrd": ".seg.nrrd", "coco": ".json", "dicom_seg": ".dcm"}
"""Of the forms that are one file; "png" is a folder."""

_WITH_IMAGES = ("png", "coco")


def export(
    cine: Any,
    store: MaskStore,
    out: str | Path,
    form: str,
    statuses: Collection[Status] = (Status.ACCEPTED, Status.EDITED),
    *,
    images: bool = False,
) -> Report:
    """``export_steps`` all at once."""
    return finish(export_steps(cine, store, out, form, statuses, images=images))


def export_steps(
    cine: Any,
    store: MaskStore,
    out: str | Path,
    form: str,
    statuses: Collection[Status] = (Status.ACCEPTED, Status.EDITED),
    *,
    images: bool = False,
) -> Steps[Report]:
    """Write the labels of those frames that have one of the statuses; see the module of each form for its files.

    Frames that nobody looked at are never written. Nothing leaves the machine.

    Args:
        cine, store: the labels are of.
        out: a folder, or for the forms of ``SUFFIXES`` also the file. For "png" the folder is new or empty.
        form: of ``FORMS``.
        statuses: of the frames.
        images: write the frames as gray PNG files as well, for "png" and "coco".

    Errors: SegmentError for a form there is not, no frame of these statuses, or a place that cannot be written to.
    """
    if form not in FORMS:
        raise ExchangeError(f"There is no form {form[:40]!r}: choose of {', '.join(FORMS)}.")
    out = Path(out)
    if form == "png" and out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise ExchangeError(f"“{out}” is not empty: choose a new folder.")
    wanted = set(statuses) - {Status.EMPTY}
    report, indices = Report(), []
    for index, status in enumerate(store.statuses()):
        if status in wanted:
            indices.append(index)
        elif status is not Status.EMPTY:
            report.skip(frame_id(cine, index), f"it is {status.value}")
    if not indices:
        raise ExchangeError(
            f"No frame is {' or '.join(sorted(status.value for status in wanted)) or 'chosen'}: accept one first."
        )
    # Each brings a library that takes a while to import.
    module = import_module(f"UltrasoundSegmentLib.exchange.{FORMS[form]}")
    with_images = {"images": images} if form in _WITH_IMAGES else {}
    yield from module.write(cine, store, indices, out, report, **with_images)
    return report


def file_in(cine: Any, out: Path, form: str) -> Path:
    """The file to write: ``out`` itself if it is named like one of the form, else one of the cine's name in it."""
    suffix = SUFFIXES[form]
    return out if out.name.lower().endswith(suffix.rsplit(".", 1)[-1]) else out / f"{item_of(cine)}{suffix}"

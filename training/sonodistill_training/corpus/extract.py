"""One file -> its frames. Runs in the child process: JSON and bytes out, and nothing to lose in a crash."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import cv2
import pydicom

from sonodistill.errors import SonoDistillError
from sonodistill.files import sha256
from sonodistill.frames.find import kind_of
from sonodistill_training.corpus.child import Answer
from sonodistill_training.corpus.clip import Clip
from sonodistill_training.corpus.extraction import Extraction
from sonodistill_training.corpus.privacy import KeyedNames

_LONGEST_REASON = 300


def extract(
    file: str,
    options: dict[str, Any],
    key: str,
    axis: str = "",
    only: Sequence[int] = (),
    mm_per_pixel: float | None = None,
) -> Iterator[Answer]:
    """Answers for a file: "frame" and "refused" as they come, "working" between them, and one "file" at the end.

    The payload of a "frame" is its pixels, packed overlay mask, hash, appearance and windows, as long as ``sizes``
    says; that of a "refused" is a thumbnail.

    Args:
        options: ``Extraction.to_json()``.
        key: of ``KeyedNames``, in hex, to name the patient of a DICOM file.
        axis: how a volume is cut, in the place of the options' cuts.
        only: the frames to be read; empty is all.
        mm_per_pixel: stated beside the file; used where the file itself states nothing.
    """
    path, chosen = Path(file), Extraction.from_json(options)
    cv2.setNumThreads(1)  # a child has one core
    report: dict[str, Any] = {"kind": "file", "status": "read", "reason": None}
    counts = dict.fromkeys(("frames", "kept", "redundant", "refused"), 0)
    try:
        source = kind_of(path)
        report |= {"source_kind": source, "source_sha256": sha256(path), "bytes": path.stat().st_size}
        report["patient"] = _patient(path, KeyedNames(bytes.fromhex(key))) if source == "dicom" else None
        yield {"kind": "working"}, b""
        cuts = ("",) if source != "volume" else (axis,) if axis else chosen.cuts
        for cut in cuts:
            for header, payload in Clip(path, cut, chosen, only, mm_per_pixel).answers():
                for name in counts:
                    counts[name] += header.pop(name, 0)
                if header["kind"] == "broken":
                    report |= {"status": "corrupt", "reason": header["reason"]}
                else:
                    yield header, payload
    except SonoDistillError as error:
        report |= {"status": "corrupt", "reason": error.message}
    report["reason"] = _nameless(report["reason"], path)
    yield {**report, **counts}, b""


def _nameless(reason: str | None, path: Path) -> str | None:
    """A reader's message without the name of the file, which libraries like to quote."""
    if reason is None:
        return None
    for name in (str(path), path.name, path.stem):
        reason = re.sub(rf"(?<!\w){re.escape(name)}(?!\w)", "the file", reason)
    return reason[:_LONGEST_REASON]


def _patient(path: Path, names: KeyedNames) -> str | None:
    """The keyed name of Patient ID (0010,0020), which is read for nothing else; None where there is none."""
    try:
        header = pydicom.dcmread(path, stop_before_pixels=True, specific_tags=["PatientID"])
        patient = str(header.get("PatientID") or "").strip()
    except Exception:  # noqa: BLE001 - whatever malformed bytes provoke; the reader will name it
        return None
    return names("patient", patient) if patient else None

"""Findings with measured structures on real and made-up ultrasound, for the tests of reports and previews."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path

import cv2
import findings_case
import numpy as np
from conformance import dcentvfy, dciodvfy_errors, dcmftest

from sonodistill.dicom.algorithm import Segment
from sonodistill.dicom.findings import Findings, Masks
from sonodistill.dicom.source import read_source
from sonodistill.dicom.write.measure import structures_of
from sonodistill.frames.dicom import frame_times

# Faults of the source that a result has to repeat, or has to name.
_INHERITED = {
    # ACR-NEMA dates with points and colons, which are written as DICOM wants them; identifiers of a root nobody has.
    "ExplVR_BigEnd.dcm": r"Element=<Study(Date|Time)>",
    "color-pl.dcm": r"Illegal root for UID|Element=<Study(Date|Time)>",
    "color-px.dcm": r"Illegal root for UID|Element=<Study(Date|Time)>",
    # Two frames in an image of a class without: a reference without the frame would speak of both.
    "OBXXXX1A_2frame.dcm": r"not multi-frame - attribute <ReferencedFrameNumber>",
    "OBXXXX1A_expb_2frame.dcm": r"not multi-frame - attribute <ReferencedFrameNumber>",
}


def measured(path: Path, *, segments: tuple[Segment, ...] | None = None, frames: int | None = None) -> Findings:
    """An ellipse for each segment in the first ``frames`` frames, which drifts and grows."""
    algorithm = findings_case.ALGORITHM if segments is None else replace(findings_case.ALGORITHM, segments=segments)
    source = read_source(path)
    masks = Masks(len(algorithm.segments), source.rows, source.columns)
    structures = []
    for frame in range(source.frames):
        stack = np.zeros(masks.shape, np.uint8)
        for number, mask in enumerate(stack if frames is None or frame < frames else []):
            centre = (source.columns * (3 + number) // 7, source.rows * (4 - number) // 7)
            axes = (source.columns // (9 + number) + frame % 3, source.rows // 11)
            cv2.ellipse(mask, centre, axes, 20, 0, 360, 1, -1)
        masks.append(stack.astype(bool), np.zeros(masks.shape, np.float32))
        structures += structures_of(stack.astype(bool), frame, source.ds)
    times, _ = frame_times(source.ds, source.frames)
    return Findings(source, algorithm, masks, None if times is None else tuple(times), tuple(structures))


def faults(path: Path, findings: Findings) -> list[str]:
    """What other programs have against a result, beside the faults of its source."""
    said = [*dciodvfy_errors(path), *dcentvfy([findings.source.path, path])]
    inherited = re.compile(_INHERITED.get(findings.source.path.name, "(?!)"))
    return [line for line in said if not inherited.search(line)] + ([] if dcmftest(path) else ["dcmftest refuses it"])

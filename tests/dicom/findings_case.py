"""Findings on real and made-up ultrasound, for the tests of what is written of them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import dicom_factory
import numpy as np
import pydicom
import pytest
from pydicom.uid import generate_uid

from sonodistill.dicom.algorithm import Algorithm, Code, Segment
from sonodistill.dicom.findings import Findings, Masks
from sonodistill.dicom.source import read_source

FOLDERS = (
    Path(pydicom.__file__).parent / "data" / "test_files",
    Path(pydicom.__file__).parents[1] / "data_store" / "data",
)
PUBLIC = (
    *("ExplVR_BigEnd.dcm", "examples_jpeg2k.dcm", "examples_palette.dcm", "examples_rgb_color.dcm"),
    *("examples_ybr_color.dcm", "JPGLosslessP14SV1_1s_1f_8b.dcm", "OBXXXX1A.dcm", "OBXXXX1A_2frame.dcm"),
    *("OBXXXX1A_expb.dcm", "OBXXXX1A_expb_2frame.dcm", "OBXXXX1A_rle.dcm", "OBXXXX1A_rle_2frame.dcm"),
    *("US1_J2KI.dcm", "US1_J2KR.dcm", "US1_UNCI.dcm", "US1_UNCR.dcm", "color-pl.dcm", "color-px.dcm"),
    *("color3d_jpeg_baseline.dcm", "gdcm-US-ALOKA-16.dcm", "gdcm-US-ALOKA-16_big.dcm"),
)
"""Every ultrasound image of pydicom and pydicom-data."""

ALGORITHM = Algorithm(
    name="breast lesions",
    version="1.0.0",
    weights_sha256="3f" * 32,
    segments=(Segment("Lesion"), Segment("Shadow", anatomy=Code("76752008", "SCT", "Breast"))),
    settings={"threshold": 0.5},
    software=("sonodistill 1.0.0", "onnxruntime 1.22"),
    licence="Built with DINOv3",
)


def public_file(name: str) -> Path:
    """One of ``PUBLIC``; skips the test where its package is not installed."""
    for folder in FOLDERS:
        if (folder / name).is_file():
            return folder / name
    pytest.skip(f"{name} is in the package pydicom-data, which is not installed")


def clip(path: Path, frames: int = 5, rows: int = 37, columns: int = 53, **attributes: Any) -> Path:
    """An ultrasound cine of noise, with identifiers; an attribute that is None is left out."""
    noise = np.random.default_rng(7).integers(0, 255, (frames, rows, columns), dtype=np.uint8)
    identifiers = {"StudyInstanceUID": generate_uid(), "SeriesInstanceUID": generate_uid()}
    given = {**identifiers, **attributes}
    ds = dicom_factory.ultrasound(noise, **{name: value for name, value in given.items() if value is not None})
    for name in [name for name, value in given.items() if value is None and name in ds]:
        delattr(ds, name)
    return dicom_factory.save(ds, path)


def random_findings(
    path: Path, *, algorithm: Algorithm = ALGORITHM, overlap: bool = True, empty: tuple[int, ...] = ()
) -> Findings:
    """Noise for masks; the segments (from 0) in ``empty`` are nowhere."""
    source = read_source(path)
    segments = len(algorithm.segments)
    masks = Masks(segments, source.rows, source.columns, keep_probabilities=True)
    rng = np.random.default_rng(3)
    for _ in range(source.frames):
        probabilities = rng.random(masks.shape, dtype=np.float32)
        probabilities[list(empty)] = 0
        found = probabilities > 0.6
        if not overlap:
            found[1:] &= ~np.logical_or.accumulate(found)[:-1]
        masks.append(found, probabilities)
    return Findings(source, algorithm, masks)

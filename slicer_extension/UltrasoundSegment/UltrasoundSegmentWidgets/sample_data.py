"""Sample data: a cine made on this computer, and pydicom's ultrasound cine, checked by its SHA-256."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from slicer.i18n import tr as _

import slicer

CATEGORY = "Ultrasound"
CINE_URL = "https://raw.githubusercontent.com/pydicom/pydicom/v3.0.1/src/pydicom/data/test_files/examples_ybr_color.dcm"
CINE_SHA256 = "SHA256:6fa3a087d3c631b43216a8abec8aac8d2d73751c5bf5885708d1150b09283f72"
FRAMES, ROWS, COLUMNS, FRAME_TIME_S, SPACING_MM = 60, 240, 320, 0.04, 0.5


def ellipse(index: int) -> tuple[float, float, float, float]:
    """Centre column and row and half axes, in pixels, of the structure on a frame of the synthetic cine."""
    beat = np.sin(2 * np.pi * index / 30)
    return 160 + 6 * np.cos(2 * np.pi * index / 45), 130.0, 52 + 10 * beat, 36 + 7 * beat


def frame(index: int, rng: np.random.Generator) -> np.ndarray:
    """(240, 320) uint8: a fan of speckle with a dark beating ellipse, as a cavity in tissue."""
    row, column = np.mgrid[:ROWS, :COLUMNS].astype(np.float32)
    speckle = rng.rayleigh(1.0, (ROWS, COLUMNS)).astype(np.float32)
    x, y, a, b = ellipse(index)
    inside = ((column - x) / a) ** 2 + ((row - y) / b) ** 2 < 1
    tissue = np.where(inside, 14, 70) * speckle * np.clip(1.15 - row / ROWS / 1.6, 0, 1)
    reach, angle = np.hypot(column - 160, row + 40), np.abs(np.arctan2(column - 160, row + 40))
    tissue[(angle > 0.62) | (reach < 60) | (reach > 275)] = 0
    return np.clip(tissue, 0, 255).astype(np.uint8)


def make_cine(_source: Any = None, scene: Any = None) -> Any:
    """The synthetic cine in the scene, with times and millimetres; its image sequence.

    Args:
        _source: what Sample Data passes.
        scene: default slicer.mrmlScene.
    """
    from UltrasoundSegmentLib.frames.build import Facts, build_cine

    rng = np.random.default_rng(7)
    place = np.diag([-SPACING_MM, -SPACING_MM, SPACING_MM, 1.0])
    times = [index * FRAME_TIME_S for index in range(FRAMES)]
    facts = Facts(source="volume geometry", time_source="sequence index")
    slices = ((frame(index, rng), place) for index in range(FRAMES))
    return build_cine(scene or slicer.mrmlScene, _("Synthetic cavity"), slices, times, facts).images


def load_cine(_source: Any) -> Any:
    """Download pydicom's cine through Sample Data, which verifies the checksum, and read it with its frame times."""
    import SampleData
    from UltrasoundSegmentLib.frames.dicom_cine import load_dicom

    logic = SampleData.SampleDataLogic()
    path = logic.downloadFile(CINE_URL, slicer.app.cachePath, "SonoDistill_cine.dcm", checksum=CINE_SHA256)
    return load_dicom(Path(path), slicer.mrmlScene).images


def register(icons: Path) -> None:
    """Add both to the Sample Data module. Nothing is fetched or made before the user clicks on one."""
    import SampleData

    add = SampleData.SampleDataLogic.registerCustomSampleDataSource
    add(
        category=CATEGORY,
        sampleName="UltrasoundSyntheticCine",
        thumbnailFileName=str(icons / "UltrasoundSyntheticCine.png"),
        customDownloader=make_cine,
    )
    add(
        category=CATEGORY,
        sampleName="UltrasoundColorCine",
        thumbnailFileName=str(icons / "UltrasoundColorCine.png"),
        uris=CINE_URL,
        fileNames="SonoDistill_cine.dcm",
        checksums=CINE_SHA256,
        customDownloader=load_cine,
    )

"""The instances: cine of simulated tissue with one bright disk that moves, JPEG baseline luma of 480 x 640."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray
from pydicom import dcmread
from pydicom.uid import generate_uid

from sonodistill_training.bench.cine import COLUMNS, ROWS, write_cine
from sonodistill_training.corpus.simulator import simulate_cine

_DISTINCT = 12
_TISSUE = 0.4  # how bright it is left beside the disk
_RADIUS = 60


@dataclass(frozen=True, slots=True)
class Loop:
    """Frames that a cine repeats.

    Attributes:
        images: (N, 480, 640) uint8.
        disks: (N, 480, 640) bool, the bright disk of each.
        encoded: JPEG of each.
    """

    images: NDArray[np.uint8]
    disks: NDArray[np.bool_]
    encoded: list[bytes]


def disk_loop(seed: int, quality: int = 90) -> Loop:
    """Simulated tissue, darkened, in which a bright disk goes round."""
    tissue = [frame.image for frame in simulate_cine(seed, frames=_DISTINCT, size=(400, 520), label="none")]
    images, disks = [], []
    for number, frame in enumerate(tissue):
        shown, disk = np.zeros((ROWS, COLUMNS), np.uint8), np.zeros((ROWS, COLUMNS), np.uint8)
        shown[40:440, 60:580] = np.rint(frame * _TISSUE)
        turn = 2 * np.pi * number / _DISTINCT
        centre = round(320 + 80 * np.cos(turn)), round(240 + 50 * np.sin(turn))
        cv2.circle(disk, centre, _RADIUS, 1, -1)
        cv2.circle(shown, centre, _RADIUS, 235, -1, cv2.LINE_AA)
        images.append(shown)
        disks.append(disk.astype(bool))
    encoded = [cv2.imencode(".jpg", one, [cv2.IMWRITE_JPEG_QUALITY, quality])[1].tobytes() for one in images]
    return Loop(np.stack(images), np.stack(disks), encoded)


def write_clips(folder: Path, loop: Loop, frames: int, count: int = 1) -> list[Path]:
    """So many Ultrasound Multi-frame Images of one series, which differ by their SOP Instance UID."""
    template = folder / "template.dcm"
    write_cine(template, loop.encoded, frames)
    ds = dcmread(template)
    template.unlink()
    # What a service wants to know of an instance; bench.cine writes what a corpus wants.
    ds.StudyInstanceUID, ds.SeriesInstanceUID = generate_uid(), generate_uid()
    ds.PatientName, ds.AccessionNumber, ds.StudyID, ds.SeriesNumber, ds.InstanceNumber = "Bench", "", "1", 1, 1
    return list(_copies(ds, folder, count))


def _copies(ds, folder: Path, count: int) -> Iterator[Path]:  # type: ignore[no-untyped-def]
    for number in range(count):
        ds.SOPInstanceUID = ds.file_meta.MediaStorageSOPInstanceUID = generate_uid()
        path = folder / f"{number:05d}.dcm"
        ds.save_as(path, enforce_file_format=True)
        yield path


def write_stills(folder: Path, count: int, seed: int) -> Iterator[Path]:
    """Small uncompressed cine of one frame, 64 x 64, one after the other: whoever takes one may remove it."""
    folder.mkdir(parents=True, exist_ok=True)
    image = np.random.default_rng(seed).integers(0, 90, (64, 64), np.uint8)
    cv2.circle(image, (32, 32), 12, 235, -1)
    encoded = cv2.imencode(".jpg", image)[1].tobytes()
    template = folder / "template.dcm"
    write_cine(template, [encoded], 1)
    ds = dcmread(template)
    template.unlink()
    ds.Rows = ds.Columns = 64
    ds.StudyInstanceUID, ds.SeriesInstanceUID = generate_uid(), generate_uid()
    yield from _copies(ds, folder, count)

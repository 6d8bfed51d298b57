"""Synthetic cine loops as DICOM files, to time a build on: JPEG baseline, as most scanners write them."""

from __future__ import annotations

import itertools
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.encaps import encapsulate
from pydicom.uid import JPEGBaseline8Bit, UltrasoundMultiFrameImageStorage, generate_uid

from sonodistill_training.corpus.simulator import simulate_cine

ROWS, COLUMNS = 480, 640
_FRAME_MS = 33.3


def screen(image: NDArray[np.uint8], number: int, text: str) -> NDArray[np.uint8]:
    """A (480, 640) scanner's screen around a frame: text beside and over the image, a ruler, a gray bar."""
    shown = np.zeros((ROWS, COLUMNS), np.uint8)
    height, width = image.shape
    top, left = (ROWS - height) // 2, (COLUMNS - width) // 2
    shown[top : top + height, left : left + width] = image
    cv2.putText(shown, text, (8, 20), cv2.FONT_HERSHEY_SIMPLEX, 0.5, 255, 1, cv2.LINE_AA)
    cv2.putText(shown, f"{number:04d}", (560, 20), cv2.FONT_HERSHEY_SIMPLEX, 0.5, 200, 1, cv2.LINE_AA)
    for y in range(top, top + height, 20):
        cv2.line(shown, (left + width + 6, y), (left + width + 12, y), 220, 1)
    shown[top : top + 200, 12:24] = np.linspace(255, 0, 200, dtype=np.uint8)[:, None]
    return shown


def encoded_loop(seed: int, distinct: int = 48, quality: int = 90) -> list[bytes]:
    """JPEG frames of a loop in which tissue moves round a closed path."""
    cine = simulate_cine(seed, frames=distinct, size=(400, 520))
    shown = [screen(frame.image, number, f"BENCH {seed}") for number, frame in enumerate(cine)]
    return [cv2.imencode(".jpg", one, [cv2.IMWRITE_JPEG_QUALITY, quality])[1].tobytes() for one in shown]


def write_cine(path: Path, loop: list[bytes], frames: int) -> None:
    """An Ultrasound Multi-frame Image of ``frames`` frames that repeat the loop."""
    meta = FileMetaDataset()
    meta.MediaStorageSOPClassUID = UltrasoundMultiFrameImageStorage
    meta.MediaStorageSOPInstanceUID = generate_uid()
    meta.TransferSyntaxUID = JPEGBaseline8Bit
    ds = Dataset()
    ds.file_meta = meta
    ds.SOPClassUID, ds.SOPInstanceUID = meta.MediaStorageSOPClassUID, meta.MediaStorageSOPInstanceUID
    ds.Modality, ds.PatientID = "US", "bench"
    ds.SamplesPerPixel, ds.PhotometricInterpretation = 1, "MONOCHROME2"
    ds.Rows, ds.Columns, ds.NumberOfFrames = ROWS, COLUMNS, frames
    ds.BitsAllocated, ds.BitsStored, ds.HighBit, ds.PixelRepresentation = 8, 8, 7, 0
    ds.FrameTime, ds.FrameIncrementPointer = str(_FRAME_MS), 0x00181063
    ds.PixelData = encapsulate(list(itertools.islice(itertools.cycle(loop), frames)))
    ds["PixelData"].is_undefined_length = True
    path.parent.mkdir(parents=True, exist_ok=True)
    ds.save_as(path, enforce_file_format=True)

"""Small DICOM ultrasound files for the tests of the readers, written with pydicom alone."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.encaps import encapsulate
from pydicom.pixels import get_encoder
from pydicom.sequence import Sequence
from pydicom.uid import (
    ExplicitVRBigEndian,
    ExplicitVRLittleEndian,
    JPEGLSLossless,
    RLELossless,
    UltrasoundMultiFrameImageStorage,
    generate_uid,
)

Array = np.ndarray


def region(x0: int, y0: int, x1: int, y1: int, cm: float = 0.05, **attributes: Any) -> Dataset:
    """A calibrated 2D tissue region (inclusive bounds)."""
    item = Dataset()
    item.RegionSpatialFormat, item.RegionDataType, item.RegionFlags = 1, 1, 2
    item.RegionLocationMinX0, item.RegionLocationMinY0 = x0, y0
    item.RegionLocationMaxX1, item.RegionLocationMaxY1 = x1, y1
    item.PhysicalUnitsXDirection = item.PhysicalUnitsYDirection = 3
    item.PhysicalDeltaX = item.PhysicalDeltaY = cm
    for keyword, value in attributes.items():
        setattr(item, keyword, value)
    return item


def ultrasound(frames: Array, *, photometric: str = "MONOCHROME2", **attributes: Any) -> Dataset:
    """A data set around (N, H, W) or (N, H, W, 3) uint8 or uint16 frames, in native form."""
    ds = Dataset()
    ds.file_meta = FileMetaDataset()
    ds.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    ds.SOPClassUID, ds.SOPInstanceUID = UltrasoundMultiFrameImageStorage, generate_uid()
    ds.Modality, ds.PatientName, ds.PatientID = "US", "Secret^Name", "SECRET-ID"
    ds.SamplesPerPixel = 3 if frames.ndim == 4 else 1
    if frames.ndim == 4:
        ds.PlanarConfiguration = 0
    ds.PhotometricInterpretation = photometric
    ds.NumberOfFrames, ds.Rows, ds.Columns = frames.shape[:3]
    bits = frames.dtype.itemsize * 8
    ds.BitsAllocated = ds.BitsStored = bits
    ds.HighBit, ds.PixelRepresentation = bits - 1, int(frames.dtype.kind == "i")
    data = frames.tobytes()
    ds.PixelData = data + b"\0" * (len(data) % 2)
    ds["PixelData"].VR = "OW" if bits == 16 else "OB"
    for keyword, value in attributes.items():
        setattr(ds, keyword, Sequence(value) if keyword == "SequenceOfUltrasoundRegions" else value)
    return ds


def encapsulated(ds: Dataset, syntax: str, encoded: list[bytes], *, offset_table: bool = True) -> Dataset:
    """The same data set with ``encoded`` frames in its pixel data."""
    ds.file_meta.TransferSyntaxUID = syntax
    ds.PixelData = encapsulate(encoded, has_bot=offset_table)
    ds["PixelData"].VR = "OB"
    ds["PixelData"].is_undefined_length = True
    return ds


def save(ds: Dataset, path: Path) -> Path:
    """Write as a DICOM file in the data set's own transfer syntax."""
    ds.save_as(path, enforce_file_format=True, little_endian=None, implicit_vr=None)
    return path


def save_big_endian(frames: Array, path: Path, **attributes: Any) -> Path:
    """A native Explicit VR Big Endian file."""
    ds = ultrasound(frames, **attributes)
    ds.file_meta.TransferSyntaxUID = ExplicitVRBigEndian
    if frames.dtype.itemsize == 2:
        ds.PixelData = frames.astype(frames.dtype.newbyteorder(">")).tobytes()
    return save(ds, path)


def jpeg(image: Array, **options) -> bytes:
    """JPEG baseline, padded to an even length."""
    buffer = io.BytesIO()
    Image.fromarray(image).save(buffer, "JPEG", quality=95, **options)
    data = buffer.getvalue()
    return data + b"\0" * (len(data) % 2)


def lossless_clip(path: Path, frames: Array, *, syntax: str = JPEGLSLossless, repeat: int = 1) -> Path:
    """A clip of ``frames``, repeated, in RLE or JPEG-LS."""
    ds = ultrasound(frames)
    encoder, plugin = get_encoder(syntax), "pydicom" if syntax == RLELossless else "pyjpegls"
    encoded = [
        encoder.encode(
            frame.tobytes(),
            rows=ds.Rows,
            columns=ds.Columns,
            samples_per_pixel=1,
            number_of_frames=1,
            bits_allocated=8,
            bits_stored=8,
            pixel_representation=0,
            photometric_interpretation="MONOCHROME2",
            encoding_plugin=plugin,
        )
        for frame in frames
    ]
    ds.NumberOfFrames = len(frames) * repeat
    return save(encapsulated(ds, syntax, encoded * repeat), path)

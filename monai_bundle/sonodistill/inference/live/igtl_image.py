"""OpenIGTLink image messages to gray frames, and masks to image messages; works on messages of pyigtl."""

from __future__ import annotations

import math
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sonodistill.frames import Calibration, Frame, Provenance
from sonodistill.frames.bounds import check_size
from sonodistill.frames.calibration import PLAUSIBLE_MM
from sonodistill.frames.gray import full_range_16, luma
from sonodistill.inference.live.source import SourceError

_MAX_DEVICE_NAME = 20
_SAME = 1e-3


def to_frame(message: Any, index: int, time_ms: float | None, address: str) -> Frame:
    """The frame that a ``pyigtl.ImageMessage`` carries.

    uint8 stays, uint16 is scaled by its full range, RGB and RGBA become luma (alpha is dropped). The axis of one voxel
    is the slice's, whichever of the three it is: scanners send (1, H, W), pyigtl itself (H, W, 1).

    Errors: SourceError for a volume, and for pixels of another type or another number of components.
    """
    pixels, axes = _slice(message.image, address)
    pixels = pixels.astype(pixels.dtype.newbyteorder("="), copy=False)
    if pixels.dtype == np.uint16:
        pixels = full_range_16(pixels)
    elif pixels.dtype != np.uint8:
        raise SourceError(
            f"{address:.100} sends pixels of type {pixels.dtype}, whose range the message does not state",
            remedy="let the sender convert to uint8 (unsigned char) first",
        )
    if pixels.shape[2] not in (1, 3, 4):
        raise SourceError(f"{address:.100} sends {pixels.shape[2]} components a pixel", remedy="send gray, RGB or RGBA")
    check_size(pixels.shape[0], pixels.shape[1], Path(address))
    if pixels.shape[2] == 1:
        gray, colour = np.array(pixels[..., 0]), None
    else:
        rgb = np.array(pixels[..., :3])
        gray, colour = luma(rgb), partial(np.array, rgb)
    details = {
        "source": address,
        "device": message.device_name,
        "timestamp": message.timestamp,
        "shape": [int(side) for side in message.image.shape[:3]],
        "ijk_to_world": [[float(value) for value in row] for row in message.ijk_to_world_matrix],
        "coordinates": message.world_coordinate_system,
    }
    calibration = _calibration(message.ijk_to_world_matrix, *axes)
    return Frame(gray, index, time_ms, calibration, Provenance(Path(address), "live", None, details), colour)


def to_message(mask: bytes, frame: Frame, image_message: Any) -> Any:
    """A mask as an ``image_message`` (pyigtl's class) that lies on its frame: place, time and shape are the frame's."""
    details = frame.provenance.details
    return image_message(
        np.frombuffer(mask, np.uint8).reshape(details["shape"]),
        ijk_to_world_matrix=details["ijk_to_world"],
        world_coordinate_system=details["coordinates"],
        timestamp=details["timestamp"],
        device_name=f"{details['device'][: _MAX_DEVICE_NAME - 5]}_mask",
    )


def _slice(image: NDArray, address: str) -> tuple[NDArray, tuple[int, int]]:
    """(H, W, components) pixels of a (k, j, i[, components]) image, and the matrix's columns of rows and columns."""
    if image.ndim == 3:
        image = image[..., None]
    single = [axis for axis in range(3) if image.shape[axis] == 1]
    if not single:
        sides = " x ".join(str(side) for side in image.shape[2::-1])
        raise SourceError(
            f"{address:.100} sends a volume of {sides} voxels, not a frame",
            remedy="stream the B-mode image, or name its device: igtl://host:port/device",
        )
    row, column = (axis for axis in range(3) if axis != single[0])
    return image.squeeze(single[0]), (2 - row, 2 - column)


def _calibration(matrix: NDArray, row: int, column: int) -> Calibration:
    """Millimetres per pixel from the columns of the image-to-world matrix, whose lengths are the voxel's sides."""
    spacing = (math.hypot(*matrix[:3, row]), math.hypot(*matrix[:3, column]))
    # Turned by single precision, a side of 1 mm comes as 0.99999999.
    if all(math.isclose(side, 1, rel_tol=_SAME) for side in spacing):
        return Calibration(None, note="the message's matrix states 1 mm, as senders do that know no spacing")
    low, high = PLAUSIBLE_MM
    if not all(math.isfinite(side) and low <= side <= high for side in spacing):
        return Calibration(None, note=f"the message states impossible pixels ({spacing[0]:.4g} x {spacing[1]:.4g} mm)")
    return Calibration(spacing, "OpenIGTLink image matrix")

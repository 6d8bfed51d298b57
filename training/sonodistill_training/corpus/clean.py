"""A frame as a corpus stores it: the sector alone, nothing drawn on it, gray, small, with its signature."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from sonodistill.frames.frame import Frame
from sonodistill_training.corpus import leakage, overlays, screen, signatures

THUMBNAIL = 40
_LIT, _LEAST_LIT = 16, 0.02  # gray level from which a pixel shows something, and the share of the sector that has to


@dataclass(frozen=True, slots=True)
class Cleaned:
    """A stored frame.

    Attributes:
        image: (h, w) uint8, zero outside of the sector.
        packed_overlay: the packed bits of its (h, w) overlay mask; empty where nothing was drawn.
        hash, appearance: the signature, 32 and 256 bytes.
        windows: hashes and then appearances of its parts, or empty.
        doppler: it shows colour flow.
        facts: columns of the manifest.
    """

    image: NDArray[np.uint8]
    packed_overlay: bytes
    hash: bytes
    appearance: bytes
    windows: bytes
    doppler: bool
    facts: dict[str, Any]


def clean(
    frame: Frame,
    inside: NDArray[np.bool_],
    box: tuple[int, int, int, int],
    standing: NDArray[np.bool_] | None,
    *,
    short_side: int,
    overlay: str,
    drawn_on: bool = True,
    windows: bool = False,
) -> Cleaned | None:
    """Crop to the sector's box, shrink, remove what was drawn, and blacken what lies outside; None if that is blank.

    Args:
        inside: (H, W) bool, the sector.
        box: (top, left, bottom, right) of the sector, half-open.
        standing: (H, W) bool, what is drawn on every frame of the clip, or None for a still.
        overlay: "inpaint", "mask" or "keep".
        drawn_on: whether to look for drawings at all; nobody draws on a volume.
        windows: sign the frame's parts too, see ``leakage.windows``.
    """
    top, left, bottom, right = box
    rgb = frame.rgb()
    doppler = rgb is not None and screen.colour_doppler(rgb, inside)
    # Colour flow is no drawing.
    drawn = np.zeros_like(inside)
    if drawn_on:
        drawn = overlays.find_overlay(frame.image, None if doppler else rgb, sector=inside) & inside
    if standing is not None:
        drawn |= standing & inside
    part = np.ascontiguousarray(frame.image[top:bottom, left:right])
    scale = min(1.0, short_side / min(part.shape))
    size = max(1, round(part.shape[1] * scale)), max(1, round(part.shape[0] * scale))
    small = part if scale == 1 else cv2.resize(part, size, interpolation=cv2.INTER_AREA)
    kept = _shrink(inside[top:bottom, left:right], size)
    mask = overlays.shrink_mask(drawn[top:bottom, left:right], small.shape)
    if overlay != "keep" and mask.any():
        small = overlays.remove(small, mask, overlay)
    small = np.where(kept, small, 0).astype(np.uint8)
    if not kept.any() or float(np.mean(small[kept] > _LIT)) < _LEAST_LIT:
        return None
    facts = {
        "crop": [top, left, bottom, right],
        "height": small.shape[0],
        "width": small.shape[1],
        "sector_fraction": round(float(kept.mean()), 4),
        "overlay_fraction": round(float(drawn.sum() / max(1, inside.sum())), 6),
        "pixels_sha256": hashlib.sha256(small).hexdigest(),
    }
    signature = signatures.signature(small, kept)
    packed = np.packbits(mask).tobytes() if mask.any() else b""
    parts = b"".join(part.tobytes() for part in leakage.windows([small])) if windows else b""
    return Cleaned(small, packed, signature.hash.tobytes(), signature.appearance.tobytes(), parts, doppler, facts)


def thumbnail(image: NDArray[np.uint8]) -> bytes:
    """PNG of at most 40 pixels: enough to see what was refused, too small to read a name.

    Lettering of up to 24 pixels comes out less than 2 pixels high.
    """
    scale = min(1 / 12, THUMBNAIL / max(image.shape))
    size = max(1, round(image.shape[1] * scale)), max(1, round(image.shape[0] * scale))
    return cv2.imencode(".png", cv2.resize(image, size, interpolation=cv2.INTER_AREA))[1].tobytes()


def _shrink(inside: NDArray[np.bool_], size: tuple[int, int]) -> NDArray[np.bool_]:
    """A stored pixel belongs to the sector when all of what it averages does: text beside the fan never leaks in."""
    if inside.shape == size[::-1]:
        return inside
    return cv2.resize(inside.astype(np.uint8) * 255, size, interpolation=cv2.INTER_AREA) == 255

"""The currency of the house: one gray ultrasound image with its time, calibration and provenance."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sonodistill.errors import SonoDistillError, UnreadableFileError

# Only annotations name NumPy: the command line, which imports this package for its help, need not wait for it.
if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray


@dataclass(frozen=True, slots=True)
class Calibration:
    """Physical size of a pixel, or the reason it is unknown. It is read from the source, never assumed.

    Attributes:
        mm_per_pixel: (row spacing, column spacing) in millimetres, or None when unknown.
        source: where the value was read ("SequenceOfUltrasoundRegions", "volume spacing"), or None when unknown.
        note: why the value is unknown, or what was tolerated when reading it.
    """

    mm_per_pixel: tuple[float, float] | None
    source: str | None = None
    note: str | None = None


@dataclass(frozen=True, slots=True)
class Provenance:
    """Where a frame comes from, enough to find it again.

    Attributes:
        path: the file read.
        kind: "image", "dicom", "video", "volume" or "live".
        frames: number of frames the source holds, or None when the container does not say.
        details: what else the reader knows, JSON values only (transfer syntax, SOP instance UID, slice axis ...).
    """

    path: Path
    kind: str
    frames: int | None = None
    details: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Frame:
    """One B-mode image.

    Attributes:
        image: (H, W) uint8, contiguous.
        index: 0-based position in its source.
        time_ms: milliseconds since the first frame of the source, or None when the source does not say.
        calibration: millimetres per pixel, or the reason they are unknown.
        provenance: the source.
        colour: decodes the frame in colour for ``rgb``, or None when its source is gray or was decoded by ``isolated``,
            which brings the gray values alone. It holds what it decodes (a frame as it is encoded, or as it was
            decoded), which lives as long as the frame.
    """

    image: NDArray[np.uint8]
    index: int
    time_ms: float | None
    calibration: Calibration
    provenance: Provenance
    colour: Callable[[], NDArray[np.uint8]] | None = field(default=None, repr=False, compare=False)

    @property
    def mm_per_pixel(self) -> tuple[float, float] | None:
        """(row, column) spacing in millimetres, or None when unknown."""
        return self.calibration.mm_per_pixel

    def rgb(self) -> NDArray[np.uint8] | None:
        """(H, W, 3) uint8 in colour, or None when the source is gray; decoded by each call, and by no other one.

        ``image`` is its luma, but for colours that RGB cannot hold: those were clipped on the way here.

        Errors: UnreadableFileError when the colours cannot be decoded, although the luma could.
        """
        if self.colour is None:
            return None
        try:
            return self.colour()
        except (SonoDistillError, KeyboardInterrupt, SystemExit):
            raise
        # As wide as the readers' own handlers: decoders raise what they like on damaged data.
        except BaseException as error:
            raise UnreadableFileError(
                f"the colours of frame {self.index + 1} cannot be decoded ({type(error).__name__}: {error})"[:300],
                path=self.provenance.path,
                remedy="fetch the file again",
            ) from error

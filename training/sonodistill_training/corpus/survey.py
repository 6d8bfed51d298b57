"""One pass over a file's frames that keeps what they share: what is static, what moves, and a thumbnail of each."""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from sonodistill.errors import EmptyInputError, UnreadableFileError

THUMBNAIL = 32
_HALVE_ABOVE = 8 * THUMBNAIL


@dataclass(frozen=True)
class Background:
    """What stays the same over a file's frames, and where they change; of a still, the still itself.

    Attributes:
        count: how many frames it was made from.
        brightest, darkest: (H, W) uint8, the extremes of each pixel over time.
        mean: (H, W) float32, gray levels.
        change: (H, W) float32, mean absolute difference between consecutive frames, gray levels; zero for one frame.
            Frames are compared at half their size: the four pixels of a 2 x 2 block have one value.
    """

    count: int
    brightest: NDArray[np.uint8]
    darkest: NDArray[np.uint8]
    mean: NDArray[np.float32]
    change: NDArray[np.float32]


class Survey:
    """Accumulates the frames of one file; needs memory for a few frames and 1 KB more for each that is added.

    Attributes:
        count: frames added so far.
        times: milliseconds of each, or None where the source does not say.
    """

    def __init__(self) -> None:
        self.count = 0
        self.times: list[float | None] = []
        self._thumbs: list[NDArray[np.uint8]] = []
        self._last: NDArray[np.uint8]  # at half the size; like the sums, made by the first frame

    def add(self, gray: NDArray[np.uint8], time_ms: float | None) -> None:
        """Take one (H, W) uint8 frame into account; it is copied where it must be kept.

        Raises:
            UnreadableFileError: the frame has another size than the first.
        """
        half = _halved(gray)
        if self.count == 0:
            self._shape = gray.shape
            self._brightest, self._darkest = gray.copy(), gray.copy()
            self._sum, self._change = _Sum(gray.shape), _Sum(half.shape)
        elif gray.shape != self._shape:
            (height, width), (first_height, first_width) = gray.shape, self._shape
            raise UnreadableFileError(
                f"frame {self.count} is {width}x{height} where the first is {first_width}x{first_height}",
                remedy="split the file where its size changes",
            )
        else:
            cv2.max(self._brightest, gray, dst=self._brightest)
            cv2.min(self._darkest, gray, dst=self._darkest)
            self._change.add(cv2.absdiff(half, self._last))  # type: ignore[arg-type]
        self._sum.add(gray)
        self._last = half
        self._thumbs.append(thumbnail(half if min(gray.shape) >= _HALVE_ABOVE else gray))
        self.times.append(time_ms)
        self.count += 1

    @property
    def shape(self) -> tuple[int, int]:
        """(H, W) of every frame.

        Raises:
            EmptyInputError: no frame was added.
        """
        self._require_a_frame()
        return self._shape

    @property
    def thumbs(self) -> NDArray[np.uint8]:
        """(N, 32, 32) uint8, area-averaged, in the order in which the frames were added."""
        return np.array(self._thumbs, np.uint8).reshape(-1, THUMBNAIL, THUMBNAIL)

    @property
    def brightest(self) -> NDArray[np.uint8]:
        """(H, W) uint8, each pixel's maximum over the frames added so far."""
        self._require_a_frame()
        return self._brightest.copy()

    @property
    def darkest(self) -> NDArray[np.uint8]:
        """(H, W) uint8, each pixel's minimum over the frames added so far."""
        self._require_a_frame()
        return self._darkest.copy()

    @property
    def mean(self) -> NDArray[np.float32]:
        """(H, W) float32 gray levels, the average of the frames added so far."""
        self._require_a_frame()
        return self._sum.mean(self.count)

    @property
    def change(self) -> NDArray[np.float32]:
        """(H, W) float32 gray levels, see ``Background.change``."""
        self._require_a_frame()
        change = self._change.mean(max(1, self.count - 1)).repeat(2, axis=0).repeat(2, axis=1)
        height, width = self._shape
        odd = ((0, max(0, height - change.shape[0])), (0, max(0, width - change.shape[1])))
        return np.pad(change, odd, mode="edge")[:height, :width]

    def background(self) -> Background:
        """What the frames added so far have in common; it does not change when more are added.

        Raises:
            EmptyInputError: no frame was added.
        """
        return Background(self.count, self.brightest, self.darkest, self.mean, self.change)

    def _require_a_frame(self) -> None:
        if self.count == 0:
            raise EmptyInputError("the file gave no frame")


def thumbnail(gray: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """(32, 32) uint8 area average of an (H, W) uint8 frame, whatever its proportions.

    Large frames are halved first: OpenCV averages 2 x 2 pixels ten times faster than any other block. That leaves out
    at most a last row and column at a time, and rounds by at most a gray level or so.
    """
    while min(gray.shape) >= _HALVE_ABOVE:
        gray = _halved(gray)
    return cv2.resize(gray, (THUMBNAIL, THUMBNAIL), interpolation=cv2.INTER_AREA)  # type: ignore[return-value]


def _halved(gray: NDArray[np.uint8]) -> NDArray[np.uint8]:
    height, width = max(1, gray.shape[0] // 2), max(1, gray.shape[1] // 2)
    even = gray[: 2 * height, : 2 * width]
    return cv2.resize(even, (width, height), interpolation=cv2.INTER_AREA)  # type: ignore[return-value]


class _Sum:
    """The exact sum of any number of uint8 images, twice as fast as one in float32.

    16 bits hold 257 of them (257 x 255 = 65,535); then they are carried over.
    """

    _MOST = 257

    def __init__(self, shape: tuple[int, int]) -> None:
        self._recent, self._held = np.zeros(shape, np.uint16), 0
        self._carried = np.zeros(shape, np.float64)

    def add(self, image: NDArray[np.uint8]) -> None:
        if self._held == self._MOST:
            self._carried += self._recent
            self._recent[:], self._held = 0, 0
        np.add(self._recent, image, out=self._recent)
        self._held += 1

    def mean(self, count: int) -> NDArray[np.float32]:
        return ((self._carried + self._recent) / count).astype(np.float32)

"""Single NIfTI-1 files, a slice at a time, so that a long cine never lies in memory as a whole.

The header is that of nifti1.h; nibabel and SimpleITK, which read and write such files, want all voxels at once, and
SimpleITK claims millimetres where the size of a pixel is unknown.
"""

from __future__ import annotations

import gzip
import struct
import zlib
from collections.abc import Iterable, Iterator
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import IO, cast

import numpy as np
from numpy.typing import NDArray

from sonodistill.annotate.errors import InvalidLabelError, TooLargeError
from sonodistill.files import atomic_path
from sonodistill.frames.bounds import MAX_PIXELS, MAX_SIDE

MAX_VOXELS = 1 << 31
MAX_SLICES = (1 << 15) - 1
"""The dimensions are 16-bit."""

_FIELDS = "i10s18sihcB8h3fhhhh8f3fhBBffffii80s24shh6f12f16s4s"
_HEADER = struct.Struct("<" + _FIELDS)
_OFFSET = 352
_UINT8, _MILLIMETRES, _ALIGNED = 2, 2, 2
_DTYPES = {
    2: "u1", 256: "i1", 4: "i2", 512: "u2", 8: "i4", 768: "u4", 1024: "i8", 16: "f4", 64: "f8",
}  # fmt: skip
# Where fields are in the header as a tuple.
_DIM, _DATATYPE, _PIXDIM, _VOX_OFFSET, _SLOPE, _INTERCEPT, _MAGIC = 7, 19, 22, 30, 31, 32, 64


@dataclass(frozen=True, slots=True)
class Geometry:
    """Where the voxels lie, in LPS as ITK has it.

    Attributes:
        spacing: (x, y, frame); 1 where it is unknown.
        origin: (x, y, z) of the centre of the first voxel.
        direction: (3, 3), columns are the directions of the axes.
        millimetres: whether that is in millimetres; otherwise the file says that the unit is unknown.
    """

    spacing: tuple[float, float, float] = (1.0, 1.0, 1.0)
    origin: tuple[float, float, float] = (0.0, 0.0, 0.0)
    direction: tuple[tuple[float, float, float], ...] = ((1.0, 0.0, 0.0), (0.0, 1.0, 0.0), (0.0, 0.0, 1.0))
    millimetres: bool = False


def write_labels(path: Path, slices: Iterable[NDArray[np.uint8]], shape: tuple[int, int, int], at: Geometry) -> None:
    """Write a label volume, atomically, compressed; its axes are (x, y, frame).

    Args:
        path: ends with ``.nii.gz``.
        slices: (H, W) uint8 each.
        shape: (frames, H, W).
        at: goes into the header.
    """
    with (
        atomic_path(path) as temporary,
        temporary.open("wb") as raw,
        gzip.GzipFile("", "wb", compresslevel=1, fileobj=raw, mtime=0) as file,
    ):
        file.write(_header(shape, at))
        for each in slices:
            file.write(np.ascontiguousarray(each, np.uint8).tobytes())


class LabelVolume:
    """A NIfTI file that somebody else may have written, read slice by slice.

    Args:
        path: ``.nii`` or ``.nii.gz``.

    Attributes:
        shape: (frames, H, W).

    Errors: InvalidLabelError, TooLargeError.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        try:
            with closing(self._open()) as file:
                header = file.read(_HEADER.size)
        except (OSError, EOFError, zlib.error) as error:
            raise InvalidLabelError(f"it cannot be opened ({type(error).__name__})", path=path) from None
        little, big = (header[:4] == struct.pack(f"{order}i", _HEADER.size) for order in "<>")
        if not (little or big) or len(header) < _HEADER.size or header[-4:] != b"n+1\0":
            raise InvalidLabelError("it is no single NIfTI-1 file", path=path)
        fields = struct.unpack(("<" if little else ">") + _FIELDS, header)
        self.shape = _shape(fields[_DIM : _DIM + 8], path)
        if fields[_DATATYPE] not in _DTYPES:
            raise InvalidLabelError(f"its voxels are of the type {fields[_DATATYPE]}, which no label is", path=path)
        self._dtype = np.dtype(_DTYPES[fields[_DATATYPE]]).newbyteorder("<" if little else ">")
        offset = fields[_VOX_OFFSET]
        self._offset = int(offset) if _OFFSET <= offset <= 1 << 24 else _OFFSET
        slope, intercept = fields[_SLOPE], fields[_INTERCEPT]
        self._scale = (slope, intercept) if np.isfinite([slope, intercept]).all() and slope else (1.0, 0.0)

    def __iter__(self) -> Iterator[NDArray[np.uint8] | None]:
        """(H, W) uint8 of each slice, None for one that holds other values than whole numbers of 0 to 255.

        Errors: InvalidLabelError for a file that ends early.
        """
        _, rows, columns = self.shape
        size = rows * columns * self._dtype.itemsize
        try:
            with closing(self._open()) as file:
                if len(file.read(self._offset)) < self._offset:
                    raise EOFError
                for _ in range(self.shape[0]):
                    raw = file.read(size)
                    if len(raw) < size:
                        raise EOFError
                    yield self._labels(np.frombuffer(raw, self._dtype).reshape(rows, columns))
        except (OSError, EOFError, zlib.error) as error:
            raise InvalidLabelError(f"it is damaged or ends early ({type(error).__name__})", path=self._path) from None

    def _open(self) -> IO[bytes]:
        with self._path.open("rb") as file:
            packed = file.read(2) == b"\x1f\x8b"
        return cast("IO[bytes]", gzip.open(self._path)) if packed else self._path.open("rb")

    def _labels(self, values: NDArray) -> NDArray[np.uint8] | None:
        if self._scale != (1.0, 0.0):
            values = values * self._scale[0] + self._scale[1]
        if values.dtype == np.uint8:
            return values.copy()
        # NaN is neither.
        if not ((values >= 0) & (values <= 255)).all() or (values.dtype.kind == "f" and (values % 1).any()):
            return None
        return values.astype(np.uint8)


def _header(shape: tuple[int, int, int], at: Geometry) -> bytes:
    frames, rows, columns = shape
    # Its first two axes point the other way than ITK's.
    matrix = np.diag([-1.0, -1.0, 1.0]) @ np.column_stack((np.array(at.direction) * at.spacing, at.origin))
    return _HEADER.pack(
        *(_HEADER.size, b"", b"", 0, 0, b"r", 0),
        *(3, columns, rows, frames, 1, 1, 1, 1),
        *(0.0, 0.0, 0.0, 0, _UINT8, 8, 0),
        *(1.0, *at.spacing, 0.0, 0.0, 0.0, 0.0),
        *(float(_OFFSET), 1.0, 0.0, 0, 0, _MILLIMETRES if at.millimetres else 0),
        *(0.0, 0.0, 0.0, 0.0, 0, 0, b"SonoDistill labels", b"", 0, _ALIGNED),
        *([0.0] * 6),
        *matrix.ravel().tolist(),
        *(b"", b"n+1\0"),
    ) + bytes(_OFFSET - _HEADER.size)


def _shape(dim: tuple[int, ...], path: Path) -> tuple[int, int, int]:
    count = dim[0]
    sides = [*dim[1 : count + 1], 1] if count == 2 else list(dim[1 : count + 1])
    if not 2 <= count <= 7 or any(side != 1 for side in sides[3:]) or min(sides) < 1:
        raise InvalidLabelError(f"its size is {sides}, which is no stack of frames", path=path)
    columns, rows, frames = sides[:3]
    if max(rows, columns) > MAX_SIDE or rows * columns > MAX_PIXELS or frames * rows * columns > MAX_VOXELS:
        raise TooLargeError(f"it has {frames} slices of {rows} x {columns}", path=path)
    return frames, rows, columns

"""NIfTI, NRRD and MetaImage volumes as frames: their slices across one axis, or other planes, by SimpleITK."""

from __future__ import annotations

import gzip
import itertools
import math
import re
import zlib
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import SimpleITK as sitk
from numpy.typing import NDArray

from sonodistill.errors import UnreadableFileError, UnsupportedFormatError
from sonodistill.frames.bounds import check_size
from sonodistill.frames.cut import FORMS, bare, cut_of, is_cut, sample
from sonodistill.frames.detached import check_stays_in_folder
from sonodistill.frames.frame import Calibration, Frame, Provenance
from sonodistill.frames.gray import linear, luma
from sonodistill.frames.selection import selected

SOURCE = "volume spacing"

# Physical axis (x, y, z of ITK's LPS frame) that each anatomical plane is perpendicular to.
_PLANES = {"sagittal": 0, "coronal": 1, "axial": 2}
_BYTES = (sitk.sitkUInt8, sitk.sitkVectorUInt8)
_KINDS = tuple(f"NRRD_kinds[{axis}]" for axis in range(3))
_HEAD = 4096
_GZIP = b"\x1f\x8b"
_TRAILING = 1 << 24
# "ITK ERROR: NiftiImageIO(0x5570c8f0): " says nothing to a user, and something else each time.
_ITK_OBJECT = re.compile(r"(ITK ERROR: )?\w+\(0x[0-9a-f]+\): ")

_Pixels = tuple[NDArray[np.uint8], Callable[[], NDArray[np.uint8]] | None]


@dataclass(frozen=True, slots=True)
class _Source:
    """What the header says, all in numpy order (slowest axis first): shape, mm spacing, direction of each axis."""

    path: Path
    shape: tuple[int, ...]
    spacing: tuple[float, ...]
    directions: NDArray[np.float64]
    components: int
    metadata: dict[str, str]


def read_volume(path: Path, *, axis: str | int | None = None, only: Collection[int] | None = None) -> Iterator[Frame]:
    """Slices of a volume across one axis, or the one image of a 2-D file, in stored order and orientation.

    Gray values: uint8 is kept; uint8 RGB or RGBA vectors become luma; any other type is scaled by the finite minimum
    and maximum of the whole volume. An uncompressed MetaImage of bytes is read slice by slice along axis 0; other files
    are read once and cut.

    Args:
        path: the file.
        axis: 0, 1 or 2 in numpy order (0 is the slowest, the last of the file's header), or the anatomical plane of
            the slices: "axial", "coronal" or "sagittal", cut across the stored axis nearest to that plane's normal.
            Default 0, the axis of frames in tracked and other sequences. "rotational:N" and "oblique:TILT[,TURN]" give
            planes between the stored ones, interpolated; see ``cut.cut_of``. A 2-D file ignores it.
        only: the slices wanted; all by default. Others are not cut, and not read from a file that is read in slices.

    Sequences as PLUS writes them (``Seq_FrameNNNN_Timestamp``, in seconds) give time along axis 0. The details of an
    interpolated plane say where it lies: ``details["plane"]`` is a ``cut.Plane``, in voxel indices.

    Errors: UnreadableFileError when ITK cannot read the file, UnsupportedFormatError for 4-D files, vectors that are
        not colours, an axis that does not exist, and interpolated planes of colours or of a sequence in time.
    """
    check_stays_in_folder(path)
    reader = sitk.ImageFileReader()
    reader.SetFileName(str(path))
    with _itk_errors(path):
        reader.ReadImageInformation()
    source = _source(reader, path)
    planar = len(source.shape) == 2
    across = 0 if is_cut(axis) else _axis(source, axis)
    rows, columns = (side for index, side in enumerate(source.shape) if planar or index != across)
    check_size(rows, columns, path)
    if "vox_offset" in source.metadata:
        _check_nifti_is_whole(source)
    if len(source.shape) == 3 and is_cut(axis):
        yield from _planes(reader, source, str(axis), only)
        return
    cut = _cutter(reader, source, across)
    count = source.shape[across] if len(source.shape) == 3 else 1
    times = _times(source.metadata, count) if across == 0 or len(source.shape) == 2 else None
    calibration = _calibration(source, across)
    provenance = Provenance(path, "volume", count, {"axis": across, "size": list(source.shape)})
    for index in selected(only, count, path):
        with _itk_errors(path):
            image, colour = cut(index)
        yield Frame(image, index, None if times is None else times[index], calibration, provenance, colour)


def _planes(reader: sitk.ImageFileReader, source: _Source, spec: str, only: Collection[int] | None) -> Iterator[Frame]:
    """Frames of the planes of ``spec``; outside the volume they are black."""
    cut = cut_of(spec, source.shape, source.spacing, source.path)
    _check_is_gray_space(source, spec)
    with _itk_errors(source.path):
        image = bare(reader.Execute())
    low, high = _range(image)
    calibration, count = _calibration(source, 0), len(cut.poses)
    if calibration.mm_per_pixel is not None:
        calibration = Calibration((cut.pixel, cut.pixel), SOURCE)
    for index in selected(only, count, source.path):
        plane = cut.plane(index)
        with _itk_errors(source.path):
            values = sample(image, plane, cut.shape, outside=low)
        details = {"axis": cut.name, "size": list(source.shape), "plane": plane.as_json()}
        yield Frame(
            linear(values, low, high), index, None, calibration, Provenance(source.path, "volume", count, details)
        )


def _check_is_gray_space(source: _Source, spec: str) -> None:
    """Refuse what has nothing between its stored slices or values that a plane could show."""
    facts = source.metadata
    reason = None
    if source.components > 1:
        reason = "its voxels are colours, which are not interpolated"
    # PLUS writes its volumes, too, as a sequence: of one frame.
    elif any(key.startswith("Seq_Frame0001_") for key in facts) or "time" in map(facts.get, _KINDS):
        reason = "it is a sequence of images, whose axis 0 is time"
    if reason:
        raise UnsupportedFormatError(
            f"{spec} needs a gray volume in space: {reason}", path=source.path, remedy="cut it along axis 0, 1 or 2"
        )


@contextmanager
def _itk_errors(path: Path) -> Iterator[None]:
    """Name the file in what ITK raises; it knows RuntimeError alone."""
    try:
        yield
    except (RuntimeError, MemoryError) as error:
        lines = [line.strip() for line in str(error).splitlines() if line.strip()]
        reason = _ITK_OBJECT.sub("", lines[-1])[:200] if lines else type(error).__name__
        raise UnreadableFileError(
            f"the volume cannot be read; it may be truncated ({reason})",
            path=path,
            remedy="copy it again from its source",
        ) from error


def _source(reader: sitk.ImageFileReader, path: Path) -> _Source:
    size = reader.GetSize()
    if len(size) not in (2, 3):
        raise UnsupportedFormatError(
            f"the file has {len(size)} dimensions ({' x '.join(map(str, size))})",
            path=path,
            remedy="split it into volumes of three dimensions",
        )
    components = reader.GetNumberOfComponents()
    if components not in (1, 3, 4) or (components > 1 and reader.GetPixelID() not in _BYTES):
        raise UnsupportedFormatError(f"pixels of {components} values are no RGB or RGBA colours of 8 bits", path=path)
    return _Source(
        path,
        tuple(reversed(size)),
        tuple(reversed(reader.GetSpacing())),
        np.array(reader.GetDirection(), dtype=np.float64).reshape(len(size), len(size)).T[::-1],
        components,
        # SimpleITK hands out keys in other encodings, but does not take them back.
        {key: reader.GetMetaData(key) for key in reader.GetMetaDataKeys() if key.isascii()},
    )


def _check_nifti_is_whole(source: _Source) -> None:
    """ITK fills what a truncated NIfTI file lacks with zeros and says nothing; count its bytes instead."""
    facts = source.metadata
    values = math.prod(max(1, int(facts.get(f"dim[{number}]", "1"))) for number in range(1, 8))
    needed = int(float(facts.get("vox_offset", "0"))) + values * int(facts.get("bitpix", "8")) // 8
    try:
        if not _head(source.path).startswith(_GZIP):
            held = source.path.stat().st_size
        else:
            with gzip.open(source.path) as file:
                held = 0
                # To the end, whose checksum tells damage; but what follows the values may be a bomb.
                while held < needed + _TRAILING and (chunk := file.read(1 << 20)):
                    held += len(chunk)
    except (OSError, EOFError, zlib.error) as error:
        raise UnreadableFileError(
            f"the volume cannot be read: {error}", path=source.path, remedy="copy it again from its source"
        ) from error
    if held < needed:
        raise UnreadableFileError(
            f"the volume cannot be read: the header promises {needed} bytes, the file holds {held}",
            path=source.path,
            remedy="copy it again from its source",
        )


def _axis(source: _Source, axis: str | int | None) -> int:
    """The numpy axis to cut across; 0 for a 2-D image."""
    if axis is None or len(source.shape) == 2:
        return 0
    if axis in (0, 1, 2) or axis in ("0", "1", "2"):
        return int(axis)
    if axis not in _PLANES:
        raise UnsupportedFormatError(
            f"axis {axis!r} does not exist",
            path=source.path,
            remedy=f"use 0, 1, 2, {', '.join((*_PLANES, *FORMS))}",
        )
    return int(np.argmax(np.abs(source.directions[:, _PLANES[str(axis)]])))


def _cutter(reader: sitk.ImageFileReader, source: _Source, across: int) -> Callable[[int], _Pixels]:
    """A function from slice number to its (H, W) uint8 image and what gives its colours."""
    plain = reader.GetPixelID() in _BYTES
    if plain and across == 0 and len(source.shape) == 3 and _streams(source.path):
        size = [*reader.GetSize()[:2], 0]

        def read_slice(index: int) -> _Pixels:
            reader.SetExtractSize(size)
            reader.SetExtractIndex([0, 0, index])
            return _pixels(sitk.GetArrayFromImage(reader.Execute()), source.components)

        return read_slice
    with _itk_errors(source.path):
        image = reader.Execute()
    low, high = _range(image)

    def cut(index: int) -> _Pixels:
        # A view on ITK's own memory, so that the volume is held once; it is valid while ``image`` lives.
        volume = sitk.GetArrayViewFromImage(image)
        values = volume if len(source.shape) == 2 else np.take(volume, index, axis=across)
        return _pixels(values, source.components) if plain else (linear(values, low, high), None)

    return cut


def _pixels(values: NDArray[np.uint8], components: int) -> _Pixels:
    if components == 1:
        return np.array(values, order="C"), None
    colours = np.array(values[..., :3], order="C")
    return luma(colours), colours.copy


def _range(image: sitk.Image) -> tuple[float, float]:
    """What becomes black and white: 0 and 255 of bytes, else the minimum and maximum over finite values."""
    if image.GetPixelID() in _BYTES:
        return 0.0, 255.0
    low, high = math.inf, -math.inf
    # Slab by slab, so that no second volume is made.
    for slab in sitk.GetArrayViewFromImage(image):
        finite = slab[np.isfinite(slab)]
        if finite.size:
            low, high = min(low, float(finite.min())), max(high, float(finite.max()))
    return low, high


def _streams(path: Path) -> bool:
    """True for an uncompressed MetaImage, the one format ITK reads in parts."""
    return path.suffix.lower() in (".mha", ".mhd") and b"CompressedData = True" not in _head(path)


def _head(path: Path) -> bytes:
    with path.open("rb") as file:
        return file.read(_HEAD)


def _times(metadata: dict[str, str], count: int) -> list[float] | None:
    """Milliseconds of each frame since the first from PLUS time stamps, or None when one is missing or they go back."""
    try:
        seconds = [float(metadata[f"Seq_Frame{index:04d}_Timestamp"]) for index in range(count)]
    except (KeyError, ValueError):
        return None
    milliseconds = [1000.0 * (stamp - seconds[0]) for stamp in seconds]
    in_order = all(a <= b for a, b in itertools.pairwise(milliseconds))
    return milliseconds if in_order and all(map(math.isfinite, milliseconds)) else None


def _calibration(source: _Source, across: int) -> Calibration:
    """Spacing of the two axes in the image plane, in ITK's millimetres."""
    spacing = source.spacing
    if all(value == 1.0 for value in spacing) and not _states_units(source):
        return Calibration(
            None,
            note="the spacing is 1 everywhere without a unit, which is what the format gives when nothing is known",
        )
    if across != 0 and "Seq_Frame0001_Timestamp" in source.metadata:
        return Calibration(None, note="axis 0 of a sequence is time, so this slice has no physical height")
    rows, columns = spacing if len(spacing) == 2 else [s for i, s in enumerate(spacing) if i != across]
    if not all(math.isfinite(value) and value > 0 for value in (rows, columns)):
        return Calibration(None, note=f"the spacing {rows:g} x {columns:g} is impossible")
    return Calibration((float(rows), float(columns)), SOURCE)


def _states_units(source: _Source) -> bool:
    """NIfTI states its space unit in the low three bits of xyzt_units, NRRD in the field "space units"."""
    try:
        units = int(source.metadata.get("xyzt_units", "0")) & 7
    except ValueError:
        units = 0
    return units != 0 or b"\nspace units:" in _head(source.path)

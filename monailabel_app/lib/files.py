"""Masks and images as the files that MONAI Label's clients send and take: PNG, NRRD and NIfTI."""

from __future__ import annotations

import gzip
import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

import numpy as np
import SimpleITK as sitk
from numpy.typing import NDArray

from lib.targets import Target
from sonodistill.annotate.errors import AnnotationError, InvalidLabelError, TooLargeError
from sonodistill.annotate.exchange.nifti_file import Geometry, LabelVolume
from sonodistill.annotate.exchange.nifti_file import write_labels as write_nifti
from sonodistill.annotate.exchange.pixels import read_mask
from sonodistill.annotate.labels.mask import to_png
from sonodistill.errors import SonoDistillError
from sonodistill.frames.detached import names_of_values

EXTENSIONS = (".png", ".nrrd", ".nii.gz")
"""Of results."""
MAX_BYTES = 256 << 20
"""Of a file of labels."""
MAX_HELD = 1 << 30
"""Of its numbers in memory."""
_GZIP, _PNG, _HEADER = b"\x1f\x8b", b"\x89PNG\r\n\x1a\n", 1 << 16


def extension_of(request: Mapping[str, Any], target: Target) -> str:
    """That of the result of a request: the one it asks for, else .png of one frame and .nrrd of several.

    Errors: AnnotationError for another one, and for a PNG of several frames.
    """
    asked = request.get("result_extension") or (".png" if target.planar else ".nrrd")
    if asked not in EXTENSIONS or (asked == ".png" and not target.planar):
        raise AnnotationError(
            f"there is no result {str(asked)[:20]!r} of this image", remedy=f"ask for one of {', '.join(EXTENSIONS)}"
        )
    return str(asked)


def write_result(masks: Mapping[int, NDArray[np.uint8]], target: Target, request: Mapping[str, Any]) -> Path:
    """A new temporary file of masks (H, W) by position, zeros elsewhere; whoever asks for it removes it."""
    extension = extension_of(request, target)
    shape = target.shape
    with tempfile.NamedTemporaryFile(prefix="sonodistill-", suffix=extension, delete=False) as file:
        path = Path(file.name)
    try:
        write_masks(path, masks, shape, target.geometry, compress=request.get("result_compress") is not False)
    except BaseException:
        path.unlink(missing_ok=True)
        raise
    return path


def write_masks(
    path: Path,
    masks: Mapping[int, NDArray[np.uint8]],
    shape: tuple[int, int, int],
    geometry: Callable[[], Geometry],
    *,
    compress: bool = True,
) -> None:
    """Masks (H, W) by position as a file of all slices, in the form that the suffix of ``path`` names."""
    empty = np.zeros(shape[1:], np.uint8)
    slices = (masks.get(position, empty) for position in range(shape[0]))
    if path.name.endswith(".png"):
        path.write_bytes(to_png(next(slices)))
    elif path.name.endswith(".nrrd"):
        write_nrrd(path, slices, shape, geometry(), compress=compress)
    else:
        write_nifti(path, slices, shape, geometry())


def write_nrrd(
    path: Path, slices: Iterator[NDArray[np.uint8]], shape: tuple[int, int, int], at: Geometry, *, compress: bool = True
) -> None:
    """An NRRD file of (frames, H, W) uint8, the columns fastest, written slice by slice.

    It names no unit where the size of a pixel is unknown.
    """
    frames, rows, columns = shape
    axes = (np.array(at.direction) * at.spacing).T
    lines = [
        "NRRD0004",
        "type: uint8",
        "dimension: 3",
        "space: left-posterior-superior",
        f"sizes: {columns} {rows} {frames}",
        f"space directions: {' '.join(_vector(axis) for axis in axes)}",
        "kinds: domain domain domain",
        f"encoding: {'gzip' if compress else 'raw'}",
        f"space origin: {_vector(at.origin)}",
        *(['space units: "mm" "mm" "mm"'] if at.millimetres else []),
    ]
    with path.open("wb") as file:
        file.write(("\n".join(lines) + "\n\n").encode())
        with _packed(file) if compress else _plain(file) as packed:
            for each in slices:
                packed.write(np.ascontiguousarray(each, np.uint8).tobytes())


def read_labels(path: Path, shape: tuple[int, int, int]) -> NDArray[np.integer[Any]]:
    """(frames, H, W) of whole numbers from a file that a client sent; it is decoded only if it is of that shape.

    PNG, NRRD, NIfTI and MetaImage are told by their content; raw bytes by the suffix ``.bin``, which OHIF sends.

    Errors: InvalidLabelError for anything else, damaged files and other sizes; TooLargeError.
    """
    size = path.stat().st_size
    if size > MAX_BYTES:
        raise TooLargeError(f"the labels have {size} bytes", remedy=f"send {MAX_BYTES} at most, compressed")
    with path.open("rb") as file:
        head = file.read(_HEADER)
    if head.startswith(_PNG):
        return _checked(read_mask(path)[None], shape)
    if head.startswith(b"NRRD"):
        return _by_itk(path, "NrrdImageIO", shape)
    if head.startswith((b"ObjectType", b"NDims")):
        return _by_itk(path, "MetaImageIO", shape)
    if head.startswith(_GZIP) or head[344:348] == b"n+1\0":
        return _nifti(path, shape)
    if path.name.endswith(".bin"):
        return _raw(path, shape)
    raise InvalidLabelError(
        "what was sent is no label: it is neither PNG nor NRRD, NIfTI or MetaImage",
        remedy="save the label map, not a page or a message",
    )


def _nifti(path: Path, shape: tuple[int, int, int]) -> NDArray[np.uint8]:
    volume = LabelVolume(path)
    _require(volume.shape, shape)
    labels = np.empty(shape, np.uint8)
    for position, mask in enumerate(volume):
        if mask is None:
            raise _no_numbers()
        labels[position] = mask
    return labels


def _by_itk(path: Path, io: str, shape: tuple[int, int, int]) -> NDArray[np.integer[Any]]:
    try:
        apart = names_of_values(path)
    except SonoDistillError as error:
        raise InvalidLabelError(error.message) from None
    if apart:  # would hand out any file of this machine
        raise InvalidLabelError("its values are in another file", remedy="save header and values as one file")
    reader = sitk.ImageFileReader()
    reader.SetImageIO(io)
    reader.SetFileName(str(path))
    try:
        reader.ReadImageInformation()
        sides = list(reversed(reader.GetSize()))
        while len(sides) > 3 and sides[0] == 1:
            sides.pop(0)
        if reader.GetNumberOfComponents() != 1:
            raise InvalidLabelError("its pixels have several values", remedy="save one label map")
        _require(tuple([1] * (3 - len(sides)) + sides), shape)
        held = int(np.prod(shape)) * sitk.Image([1, 1], reader.GetPixelID()).GetSizeOfPixelComponent()
        if held > MAX_HELD:
            raise TooLargeError(f"the labels take {held} bytes unpacked", remedy="send numbers of 8 or 16 bits")
        values = sitk.GetArrayFromImage(reader.Execute()).reshape(shape)
    except RuntimeError as error:
        raise InvalidLabelError("it is damaged, ends early or is of a form that is not read") from error
    return _checked(values, shape)


def _raw(path: Path, shape: tuple[int, int, int]) -> NDArray[np.uint8]:
    values = np.fromfile(path, np.uint8)
    if values.size != np.prod(shape):
        raise InvalidLabelError(f"it has {values.size} bytes, its image {np.prod(shape)} pixels")
    return values.reshape(shape)


def _checked(values: NDArray[Any], shape: tuple[int, int, int]) -> NDArray[np.integer[Any]]:
    _require(values.shape, shape)
    if values.dtype.kind == "f":
        whole = np.empty(shape, np.int32)
        for at, plane in enumerate(values):
            if not np.isfinite(plane).all() or (plane % 1).any() or abs(plane).max(initial=0) > 1 << 30:
                raise _no_numbers()
            whole[at] = plane
        return whole
    if values.dtype.kind not in "iu":
        raise _no_numbers()
    return values


def _require(found: tuple[int, ...], shape: tuple[int, int, int]) -> None:
    if tuple(found) != shape:
        text, wanted = (" x ".join(map(str, sides)) for sides in (found, shape))
        raise InvalidLabelError(
            f"the labels are {text}, their image is {wanted} (frames x height x width)",
            remedy="label the image as it was downloaded",
        )


def _no_numbers() -> InvalidLabelError:
    return InvalidLabelError("its values are no whole numbers of labels", remedy="save the label map, not the image")


def _vector(values: Any) -> str:
    return f"({','.join(f'{float(value):.17g}' for value in values)})"


@contextmanager
def _packed(file: IO[bytes]) -> Iterator[IO[bytes]]:
    with gzip.GzipFile("", "wb", compresslevel=1, fileobj=file, mtime=0) as packed:
        yield packed  # type: ignore[misc]


@contextmanager
def _plain(file: IO[bytes]) -> Iterator[IO[bytes]]:
    yield file

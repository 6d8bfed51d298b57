"""NRRD and NIfTI as servers exchange them: one array and where it lies, read within bounds, without other packages."""

from __future__ import annotations

import gzip
import re
import struct
import zlib
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from UltrasoundSegmentLib.backends.model import BackendError

MOST_BYTES = 1 << 30
_LPS = np.diag([-1.0, -1.0, 1.0, 1.0])
_NRRD_TYPES = {
    **dict.fromkeys(("signed char", "int8", "int8_t"), "i1"),
    **dict.fromkeys(("uchar", "unsigned char", "uint8", "uint8_t"), "u1"),
    **dict.fromkeys(("short", "short int", "signed short", "int16", "int16_t"), "i2"),
    **dict.fromkeys(("ushort", "unsigned short", "uint16", "uint16_t"), "u2"),
    **dict.fromkeys(("int", "signed int", "int32", "int32_t"), "i4"),
    **dict.fromkeys(("uint", "unsigned int", "uint32", "uint32_t"), "u4"),
    "float": "f4",
    "double": "f8",
}
_NRRD_NAMES = {
    "u1": "uint8",
    "i1": "int8",
    "i2": "int16",
    "u2": "uint16",
    "i4": "int32",
    "u4": "uint32",
    "f4": "float",
    "f8": "double",
}
_NIFTI_TYPES = {2: "u1", 4: "i2", 8: "i4", 16: "f4", 64: "f8", 256: "i1", 512: "u2", 768: "u4"}


@dataclass(frozen=True, eq=False)
class Volume:
    """An array and where it lies.

    Attributes:
        voxels: (K, J, I).
        ijk_to_ras: (4, 4) float64 in mm.
        millimetres: whether the file says that its unit is the millimetre; else its numbers may mean nothing.
    """

    voxels: NDArray
    ijk_to_ras: NDArray[np.float64]
    millimetres: bool = True


def write_nrrd(volume: Volume) -> bytes:
    """As an NRRD, compressed, in Slicer's and ITK's way (LPS)."""
    voxels = np.ascontiguousarray(volume.voxels)
    kind = voxels.dtype.str[1:]
    if kind not in _NRRD_NAMES:
        raise BackendError(f"A volume of {voxels.dtype} cannot be sent: cast it first.")
    lps = _LPS @ volume.ijk_to_ras
    columns, origin = lps[:3, :3].T, lps[:3, 3]
    lines = [
        "NRRD0004",
        f"type: {_NRRD_NAMES[kind]}",
        "dimension: 3",
        "space: left-posterior-superior",
        f"sizes: {' '.join(str(side) for side in voxels.shape[::-1])}",
        f"space directions: {' '.join(_vector(one) for one in columns)}",
        "kinds: domain domain domain",
        "endian: little",
        "encoding: gzip",
        f"space origin: {_vector(origin)}",
    ]
    little = voxels.astype(voxels.dtype.newbyteorder("<"), copy=False)
    return "\n".join(lines).encode() + b"\n\n" + gzip.compress(little.tobytes(), 1, mtime=0)


def read(content: bytes) -> Volume:
    """The volume of an NRRD, or of a NIfTI-1, compressed or not. Errors: BackendError."""
    try:
        if content.startswith(b"NRRD000"):
            return _nrrd(content)
        if content.startswith(b"\x1f\x8b"):
            content = _unzipped(content, MOST_BYTES, exact=False)
        if len(content) > 352 and content[344:348] in (b"n+1\0", b"ni1\0"):
            return _nifti(content)
    except (ValueError, KeyError, IndexError, struct.error, zlib.error, UnicodeDecodeError) as error:
        raise BackendError(f"The server's image cannot be read ({type(error).__name__}): ask again.") from None
    raise BackendError("The server's answer is no NRRD and no NIfTI: is it another kind of server?")


def _vector(values: NDArray) -> str:
    return f"({','.join(repr(float(value)) for value in values)})"


def _nrrd(content: bytes) -> Volume:
    head, found, body = content[: 1 << 16].partition(b"\n\n")
    windows, found_windows, _ = content[: 1 << 16].partition(b"\r\n\r\n")
    if found_windows and len(windows) < len(head):
        head, found = windows, found_windows
    body = content[len(head) + len(found) :]
    fields = {}
    for line in head.decode("latin-1").splitlines()[1:]:
        name, colon, value = line.partition(":")
        if colon and not line.startswith("#"):
            fields[name.strip().lower()] = value.lstrip("=").strip()
    sizes = [int(side) for side in fields["sizes"].split()]
    if not found or not 2 <= len(sizes) <= 4 or min(sizes) < 1 or "data file" in fields or "datafile" in fields:
        raise BackendError("The server's NRRD is not one image of two or three dimensions.")
    if len(sizes) == 4:
        raise BackendError("The server's NRRD has four dimensions: choose a model that answers one image.")
    kind = np.dtype(_NRRD_TYPES[fields["type"].lower()])
    kind = kind.newbyteorder(">" if fields.get("endian") == "big" else "<")
    encoding = fields.get("encoding", "raw").lower()
    if encoding not in ("raw", "gzip", "gz"):
        raise BackendError(f"The server's NRRD is encoded as {encoding[:20]}: gzip and raw are read.")
    array = _array(body if encoding == "raw" else _unzipped(body, _size(sizes, kind)), sizes, kind)
    return Volume(array, *_nrrd_place(fields, len(sizes)))


def _nrrd_place(fields: dict[str, str], dimensions: int) -> tuple[NDArray[np.float64], bool]:
    vectors = re.findall(r"\(([^)]*)\)", fields.get("space directions", ""))
    matrix = np.eye(4)
    if vectors:
        for axis, text in enumerate(vectors[:dimensions]):
            values = [float(value) for value in text.split(",")]
            matrix[: len(values), axis] = values
    elif "spacings" in fields:
        for axis, text in enumerate(fields["spacings"].split()[:dimensions]):
            if np.isfinite(float(text)):
                matrix[axis, axis] = float(text)
    origin = re.findall(r"\(([^)]*)\)", fields.get("space origin", ""))
    if origin:
        values = [float(value) for value in origin[0].split(",")]
        matrix[: len(values), 3] = values
    if not np.isfinite(matrix).all():
        raise BackendError("The server's NRRD says that it lies nowhere.")
    units = re.findall(r'"([^"]*)"', fields.get("space units", "") or fields.get("units", ""))
    millimetres = bool(units) and all(unit in ("mm", "") for unit in units) and "mm" in units
    space = fields.get("space", "").lower()
    ras = matrix if space in ("right-anterior-superior", "ras") else _LPS @ matrix
    return ras, millimetres


def _nifti(content: bytes) -> Volume:
    order = "<" if struct.unpack("<i", content[:4])[0] == 348 else ">"
    sizes = struct.unpack(order + "8h", content[40:56])
    (code,) = struct.unpack(order + "h", content[70:72])
    spacing = struct.unpack(order + "8f", content[76:108])
    offset, slope, shift = struct.unpack(order + "3f", content[108:120])
    quaternion, affine = struct.unpack(order + "2h", content[252:256])
    sides = [max(1, side) for side in sizes[1 : 1 + sizes[0]]]
    if not 2 <= len(sides) <= 5 or any(side != 1 for side in sides[3:]):
        raise BackendError("The server's NIfTI is not one image of two or three dimensions.")
    sides = [*sides, 1][:3]
    kind = np.dtype(order + _NIFTI_TYPES[code])
    array = _array(content[int(offset) :], sides, kind)
    if slope not in (0.0, 1.0) or (slope != 0.0 and shift != 0.0):
        array = array * slope + shift
    matrix = np.eye(4)
    if affine > 0:
        matrix[:3] = np.reshape(struct.unpack(order + "12f", content[280:328]), (3, 4))
    elif quaternion > 0:
        matrix = _quaternion(struct.unpack(order + "6f", content[256:280]), spacing)
    else:
        matrix[:3, :3] = np.diag(spacing[1:4])
    return Volume(array, matrix, content[123] & 7 == 2)


def _quaternion(values: tuple[float, ...], spacing: tuple[float, ...]) -> NDArray[np.float64]:
    b, c, d, x, y, z = values
    a = np.sqrt(max(0.0, 1 - b * b - c * c - d * d))
    turn = np.array(
        [
            [a * a + b * b - c * c - d * d, 2 * (b * c - a * d), 2 * (b * d + a * c)],
            [2 * (b * c + a * d), a * a + c * c - b * b - d * d, 2 * (c * d - a * b)],
            [2 * (b * d - a * c), 2 * (c * d + a * b), a * a + d * d - b * b - c * c],
        ]
    )
    matrix = np.eye(4)
    matrix[:3, :3] = turn * [spacing[1], spacing[2], spacing[3] * (-1 if spacing[0] < 0 else 1)]
    matrix[:3, 3] = x, y, z
    return matrix


def _size(sizes: list[int], kind: np.dtype) -> int:
    bytes_ = kind.itemsize
    for side in sizes:
        bytes_ *= side
    if bytes_ > MOST_BYTES:
        raise BackendError(f"The server's image has {bytes_ >> 20} MiB, more than are accepted.")
    return bytes_


def _array(body: bytes, sizes: list[int], kind: np.dtype) -> NDArray:
    needed = _size(sizes, kind)
    if len(body) < needed:
        raise BackendError("The server's image is shorter than it says: ask again.")
    shape = [*sizes, 1][:3][::-1]
    values = np.frombuffer(body, kind, needed // kind.itemsize).reshape(shape)
    return values.astype(kind.newbyteorder("="))


def _unzipped(body: bytes, most: int, *, exact: bool = True) -> bytes:
    stream = zlib.decompressobj(31)
    content = stream.decompress(body, most + (0 if exact else 1))
    if not exact and len(content) > most:
        raise BackendError(f"The server's image has more than {most >> 20} MiB unpacked, more than are accepted.")
    return content


def on_grid(answer: Volume, shape: tuple[int, ...], ijk_to_ras: NDArray[np.float64]) -> NDArray:
    """The voxels of an answer in the order of axes of the image that was sent, (K, J, I).

    Errors: BackendError where the answer has other voxels.
    """
    step = np.linalg.inv(answer.ijk_to_ras[:3, :3]) @ ijk_to_ras[:3, :3]
    order = np.rint(step).astype(int)
    axes = np.abs(order).argmax(0)  # of the answer, by axis of the image
    if np.abs(step - order).max() > 0.01 or sorted(axes) != [0, 1, 2] or (np.abs(order).sum(0) != 1).any():
        raise BackendError("The server's answer is on another grid than the image: choose another model.")
    voxels = answer.voxels.transpose(2, 1, 0).transpose(axes)
    for axis in range(3):
        if order[axes[axis], axis] < 0:
            voxels = np.flip(voxels, axis)
    voxels = voxels.transpose(2, 1, 0)
    first = np.zeros(4)
    first[3] = 1.0
    for axis in range(3):
        if order[axes[axis], axis] < 0:
            first[axes[axis]] = answer.voxels.shape[2 - axes[axis]] - 1
    away = np.linalg.norm((answer.ijk_to_ras @ first - ijk_to_ras[:, 3])[:3])
    if voxels.shape != tuple(shape) or away > 0.5 * np.linalg.norm(ijk_to_ras[:3, :3], axis=0).min():
        raise BackendError("The server's answer lies elsewhere than the image: choose another model.")
    return np.ascontiguousarray(voxels)

"""NRRD files of label maps (teem.sourceforge.net/nrrd/format.html): written whole, read within bounds."""

from __future__ import annotations

import math
import re
import zlib
from collections.abc import Mapping
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from UltrasoundSegmentLib.exchange.errors import NotLabelsError
from UltrasoundSegmentLib.exchange.files import read_bytes, write_bytes
from UltrasoundSegmentLib.masks.steps import Steps, finish

_MAX_FILE = 1 << 30
_MAX_VOXELS = 1 << 31
_STEP = 1 << 21
_WIDTHS = {
    **dict.fromkeys(("unsigned char", "uchar", "uint8", "uint8_t", "signed char", "int8", "int8_t"), 1),
    **dict.fromkeys(
        ("short", "short int", "signed short", "int16", "int16_t", "unsigned short", "ushort", "uint16"), 2
    ),
    **dict.fromkeys(("int", "signed int", "int32", "int32_t", "unsigned int", "uint", "uint32", "uint32_t"), 4),
}
"""Bytes of the types that labels have."""
_LPS = np.diag([-1.0, -1.0, 1.0, 1.0])


def write(
    path: Path, labels: NDArray[np.uint8], ijk_to_ras: NDArray[np.float64], fields: Mapping[str, str]
) -> Steps[None]:
    """A compressed file of one volume.

    Args:
        path: to write.
        labels: (D, H, W).
        ijk_to_ras: (4, 4) of its voxels, mm.
        fields: key and value pairs.
    """
    place = _LPS @ ijk_to_ras
    vectors = ["(" + ",".join(repr(float(value)) for value in place[:3, column]) + ")" for column in range(4)]
    lines = [
        "NRRD0004",
        "type: unsigned char",
        "dimension: 3",
        "space: left-posterior-superior",
        "sizes: " + " ".join(str(size) for size in reversed(labels.shape)),
        "space directions: " + " ".join(vectors[:3]),
        "kinds: domain domain domain",
        "encoding: gzip",
        f"space origin: {vectors[3]}",
        *(f"{key}:={_escaped(value)}" for key, value in fields.items()),
    ]
    packer = zlib.compressobj(6, zlib.DEFLATED, 31)
    data = []
    for each in labels:
        data.append(packer.compress(np.ascontiguousarray(each).data))
        yield
    write_bytes(path, b"".join([("\n".join(lines) + "\n\n").encode(), *data, packer.flush()]))


def read_fields(path: Path) -> dict[str, str]:
    """The header's fields and key and value pairs. Errors: NotLabelsError, ExchangeError."""
    return _parsed(read_bytes(path, _MAX_FILE), path.name)[0]


def read(path: Path) -> Steps[NDArray[np.uint8]]:
    """(D, H, W) uint8 of what ``write`` wrote. Errors: NotLabelsError, ExchangeError."""
    fields, data = _parsed(read_bytes(path, _MAX_FILE), path.name)
    shape, width = _shape(fields, path.name)
    if len(shape) != 3 or width != 1:
        raise NotLabelsError(f"“{path.name}” is no volume of eight-bit labels.")
    content = yield from _unpacked(fields, data, math.prod(shape), path.name)
    return np.frombuffer(content, np.uint8).reshape(shape)


def check(path: Path) -> None:
    """Refuse what Slicer's own reader should not be given: it ends the program over a malformed file.

    Errors: NotLabelsError, ExchangeError.
    """
    fields, data = _parsed(read_bytes(path, _MAX_FILE), path.name)
    shape, width = _shape(fields, path.name)
    vectors = re.findall(r"\(([^()]*)\)", fields.get("space directions", ""))
    placed = len(vectors) == 3 and all(_is_vector(each) for each in vectors)
    placed = placed and _is_vector(fields.get("space origin", "").strip("()"))
    if not placed or "Segment0_ID" not in fields or len(shape) not in (3, 4):
        raise NotLabelsError(f"“{path.name}” is NRRD, but no segmentation that 3D Slicer wrote.")
    finish(_unpacked(fields, data, width * math.prod(shape), path.name))


def _shape(fields: Mapping[str, str], name: str) -> tuple[tuple[int, ...], int]:
    """(shape, slowest axis first; bytes of a voxel)."""
    try:
        shape = tuple(int(size) for size in reversed(fields["sizes"].split()))
        width = _WIDTHS[fields["type"]]
        usable = min(shape) > 0 and math.prod(shape) <= _MAX_VOXELS and len(shape) == int(fields["dimension"])
    except (KeyError, ValueError):
        usable = False
    if not usable:
        raise NotLabelsError(f"“{name}” is no volume of labels.")
    return shape, width


def _unpacked(fields: Mapping[str, str], data: bytes, size: int, name: str) -> Steps[bytes]:
    """The first ``size`` bytes of the voxels."""
    encoding = fields.get("encoding")
    if encoding in ("gzip", "gz"):
        unpacker, parts, left = zlib.decompressobj(31), [], size
        try:
            while left and data:
                parts.append(unpacker.decompress(data, min(left, _STEP)))
                left, data = left - len(parts[-1]), unpacker.unconsumed_tail
                yield
        except zlib.error:
            parts = []
        data = b"".join(parts)
    elif encoding != "raw":
        raise NotLabelsError(f"“{name}” is encoded as {str(encoding)[:20]}; gzip and raw are read.")
    if len(data) < size:
        raise NotLabelsError(f"“{name}” is damaged: its voxels are not all there.")
    return data[:size]


def _is_vector(text: str) -> bool:
    try:
        values = [float(each) for each in text.split(",")]
    except ValueError:
        return False
    return len(values) == 3 and all(math.isfinite(value) for value in values)


def _parsed(content: bytes, name: str) -> tuple[dict[str, str], bytes]:
    header, gap, data = content.partition(b"\n\n")
    if not content.startswith(b"NRRD") or not gap:
        raise NotLabelsError(f"“{name}” is no NRRD file.")
    fields: dict[str, str] = {}
    for line in header.decode("utf-8", "replace").split("\n")[1:]:
        if line.startswith("#"):
            continue
        key, sign, value = line.partition(":=")
        if not sign or ": " in key:
            key, sign, value = line.partition(": ")
        fields[key.strip()] = value.strip().replace("\\n", "\n").replace("\\\\", "\\")
    return fields, data


def _escaped(value: str) -> str:
    return value.replace("\\", "\\\\").replace("\n", "\\n")

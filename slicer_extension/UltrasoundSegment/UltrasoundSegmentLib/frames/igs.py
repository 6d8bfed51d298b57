"""Sequence files of PLUS (.igs.mha, .igs.nrrd): images with the fields that a tracker wrote beside each."""

from __future__ import annotations

import re
import zlib
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from UltrasoundSegmentLib.errors import SegmentError

_FIELD = re.compile(r"Seq_Frame(\d+)_(\w+)$")
_TYPES = {
    **{"MET_UCHAR": "u1", "MET_CHAR": "i1", "MET_USHORT": "u2", "MET_SHORT": "i2"},
    **{"MET_UINT": "u4", "MET_INT": "i4", "MET_FLOAT": "f4", "MET_DOUBLE": "f8"},
    **{"uint8": "u1", "uchar": "u1", "unsigned char": "u1", "int8": "i1", "uint16": "u2", "ushort": "u2"},
    **{"unsigned short": "u2", "int16": "i2", "short": "i2", "uint32": "u4", "int32": "i4", "int": "i4"},
    **{"float": "f4", "double": "f8"},
}
_LONGEST_HEADER = 64 << 20
_LONGEST_LINE = 1 << 16
_MOST_BYTES = 16 << 30


class SequenceFileError(SegmentError):
    """A file is no sequence file, or it is damaged; says which."""


@dataclass(frozen=True)
class SequenceFile:
    """What a sequence file holds.

    Attributes:
        images: (N, H, W) or (N, H, W, components), rows as stored.
        frames: the fields of each frame, without "Seq_Frame0000_": "Timestamp", "ProbeToTrackerTransform",
            "ProbeToTrackerTransformStatus", "ImageStatus".
        fields: those of the file, in lower case without spaces: "ultrasoundimageorientation".
        spacing: (column, row) as stated; 1, 1 where PLUS wrote pixels.
    """

    images: NDArray
    frames: tuple[dict[str, str], ...]
    fields: dict[str, str]
    spacing: tuple[float, float]


def read_sequence(path: str | Path) -> SequenceFile:
    """Read a MetaImage or NRRD whose header and pixels are one file.

    Errors: SequenceFileError.
    """
    path = Path(path)
    try:
        with path.open("rb") as file:
            start = file.readline(64)
            file.seek(0)
            nrrd = start.startswith(b"NRRD")
            if not nrrd and b"=" not in start:
                raise _wrong(path, "it is neither a MetaImage nor an NRRD file")
            fields, frames = _header(file, nrrd, path)
            compressed = (fields.get("encoding", "raw") in ("gz", "gzip")) or fields.get("compresseddata") == "true"
            if nrrd and not compressed and fields.get("encoding", "raw") != "raw":
                raise _wrong(path, f"its encoding “{fields['encoding']}” is not read: save it with gzip or raw")
            sizes, components, spacing = (_of_nrrd if nrrd else _of_meta)(fields, path)
            kind = np.dtype(_TYPES.get(fields.get("type" if nrrd else "elementtype", ""), "V"))
            if kind.kind == "V":
                raise _wrong(path, "the type of its pixels is not read")
            big = fields.get("endian") == "big" or fields.get("binarydatabyteordermsb") == "true"
            kind = kind.newbyteorder(">" if big else "<")
            values = _pixels(file, sizes, components, kind, compressed, path)
    except OSError as error:
        raise SequenceFileError(f"“{path.name}” cannot be opened: {error}.") from error
    count = values.shape[0]
    each = tuple(frames.get(number, {}) for number in range(count))
    return SequenceFile(values, each, fields, spacing)


def _header(file, nrrd: bool, path: Path) -> tuple[dict[str, str], dict[int, dict[str, str]]]:
    fields: dict[str, str] = {}
    frames: dict[int, dict[str, str]] = {}
    if nrrd:
        file.readline()
    while True:
        raw = file.readline(_LONGEST_LINE)
        if not raw.endswith(b"\n") or file.tell() > _LONGEST_HEADER:
            raise _wrong(path, "its header has no end")
        line = raw.decode("utf-8", "replace").strip()
        if nrrd and not line:
            return fields, frames
        if line.startswith("#") or not line:
            continue
        key, value = _split(line, nrrd)
        field = _FIELD.match(key)
        if field:
            frames.setdefault(int(field[1]), {})[field[2]] = value
            continue
        name = key.lower().replace(" ", "")
        fields[name] = value if nrrd or name not in ("compresseddata", "binarydatabyteordermsb") else value.lower()
        if name in ("elementdatafile", "datafile", "data file"):
            if value.upper() != "LOCAL":
                raise _wrong(path, "its pixels are in another file: save it as one .mha or .nrrd file")
            return fields, frames


def _split(line: str, nrrd: bool) -> tuple[str, str]:
    key, _, value = line.partition((":=" if ":=" in line else ":") if nrrd else "=")
    return key.strip(), value.strip()


def _of_meta(fields: dict[str, str], path: Path) -> tuple[list[int], int, tuple[float, float]]:
    sizes = _integers(fields.get("dimsize", ""), path)
    spacing = [float(value) for value in (fields.get("elementspacing") or "1 1").split()]
    components = _integers(fields.get("elementnumberofchannels", "1"), path)[0]
    return sizes, components, (spacing[0], spacing[1])


def _of_nrrd(fields: dict[str, str], path: Path) -> tuple[list[int], int, tuple[float, float]]:
    sizes = _integers(fields.get("sizes", ""), path)
    kinds = fields.get("kinds", "").lower().split()
    components = sizes.pop(0) if kinds and kinds[0] in ("vector", "rgb-color", "rgba-color", "3-color") else 1
    vectors = re.findall(r"\(([^)]*)\)", fields.get("spacedirections", ""))[:2]
    norms = [float(np.linalg.norm([float(value) for value in vector.split(",")])) for vector in vectors]
    return sizes, components, (norms[0], norms[1]) if len(norms) == 2 else (1.0, 1.0)


def _pixels(file, sizes: list[int], components: int, kind: np.dtype, compressed: bool, path: Path) -> NDArray:
    if len(sizes) not in (2, 3) or min(sizes) < 1 or components not in (1, 3, 4):
        raise _wrong(path, f"its images have the sizes {sizes} and {components} components")
    columns, rows, count = (*sizes, 1)[:3]
    shape = (count, rows, columns) if components == 1 else (count, rows, columns, components)
    wanted = count * rows * columns * components * kind.itemsize
    if wanted > _MOST_BYTES:
        raise _wrong(path, f"its images would take {wanted >> 20} MiB")
    data = file.read() if compressed else file.read(wanted)
    if compressed:
        try:
            # Never more than the header states; 47 takes both zlib, of MetaImage, and gzip, of NRRD.
            data = zlib.decompressobj(47).decompress(data, wanted)
        except zlib.error as error:
            raise _wrong(path, f"its pixels cannot be decompressed ({error})") from error
    if len(data) < wanted:
        raise _wrong(path, f"it ends after {len(data)} of {wanted} bytes of pixels")
    return np.frombuffer(data, kind).reshape(shape).astype(kind.newbyteorder("="), copy=False)


def _integers(text: str, path: Path) -> list[int]:
    try:
        return [int(value) for value in text.split()]
    except ValueError:
        raise _wrong(path, f"its header has “{text[:40]}” where numbers belong") from None


def _wrong(path: Path, why: str) -> SequenceFileError:
    return SequenceFileError(f"“{path.name}” cannot be read as a sequence: {why}.")

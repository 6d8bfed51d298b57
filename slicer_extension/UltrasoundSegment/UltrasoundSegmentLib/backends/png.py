"""Gray PNG to and from arrays, through VTK; nothing is decoded before its header has been judged."""

from __future__ import annotations

import struct
import zlib

import numpy as np
import vtk
from numpy.typing import NDArray
from vtk.util.numpy_support import numpy_to_vtk, vtk_to_numpy

from UltrasoundSegmentLib.backends.model import BackendError

_SIGNATURE = b"\x89PNG\r\n\x1a\n"
MOST_PIXELS = 1 << 26


def encode(image: NDArray[np.uint8]) -> bytes:
    """(H, W) uint8, row 0 on top, as PNG."""
    height, width = image.shape
    data = vtk.vtkImageData()
    data.SetDimensions(width, height, 1)
    # VTK's row 0 is at the bottom.
    flat = np.ascontiguousarray(image[::-1], np.uint8).ravel()
    data.GetPointData().SetScalars(numpy_to_vtk(flat, deep=True, array_type=vtk.VTK_UNSIGNED_CHAR))
    writer = vtk.vtkPNGWriter()
    writer.SetInputData(data)
    writer.WriteToMemoryOn()
    writer.Write()
    return vtk_to_numpy(writer.GetResult()).tobytes()


def decode(png: bytes, shape: tuple[int, int] | None = None) -> NDArray[np.uint8]:
    """(H, W) uint8 of a gray PNG of eight bits. Errors: BackendError for anything else, or another shape."""
    content, height, width = _checked(png, shape)
    buffer = numpy_to_vtk(np.frombuffer(content, np.uint8), deep=True, array_type=vtk.VTK_UNSIGNED_CHAR)
    reader = vtk.vtkPNGReader()
    reader.SetMemoryBuffer(buffer.GetVoidPointer(0))
    reader.SetMemoryBufferLength(len(content))
    reader.Update()
    scalars = reader.GetOutput().GetPointData().GetScalars()
    if scalars is None or scalars.GetNumberOfValues() != height * width:
        raise _damaged()
    return np.array(vtk_to_numpy(scalars).reshape(height, width)[::-1], np.uint8, order="C")


def _checked(png: bytes, shape: tuple[int, int] | None) -> tuple[bytes, int, int]:
    """A PNG of the pixels alone, whole and without errors, and its (H, W).

    VTK's reader ends the process where a PNG is cut short, so every byte is judged before it sees one.
    """
    if not png.startswith(_SIGNATURE):
        raise BackendError("The server's answer is no PNG: ask again, or look at the server's log.")
    at, head, pixels = len(_SIGNATURE), b"", []
    while True:
        if at + 12 > len(png):
            raise _damaged()
        length, kind = struct.unpack(">I4s", png[at : at + 8])
        data = png[at + 8 : at + 8 + length]
        if at + 12 + length > len(png) or zlib.crc32(kind + data) != int.from_bytes(png[at + 8 + length :][:4], "big"):
            raise _damaged()
        if kind == b"IHDR" and not head and length == 13:
            head = data
        elif kind == b"IDAT":
            pixels.append(data)
        elif kind == b"IEND":
            break
        at += 12 + length
    if not head:
        raise _damaged()
    width, height, depth, colour, packing, filtering, interlacing = struct.unpack(">IIBBBBB", head)
    if (depth, colour) != (8, 0):
        raise BackendError("The server's image is not gray of eight bits: is it another kind of server?")
    if shape is not None and (height, width) != tuple(shape):
        raise BackendError(
            f"The server's image is {width} x {height} pixels, the frame {shape[1]} x {shape[0]}: is it another cine?"
        )
    if not 0 < height * width <= MOST_PIXELS:
        raise BackendError(f"The server's image is {width} x {height} pixels, more than are accepted.")
    packed, needed = b"".join(pixels), height * (width + 1)
    try:
        stream = zlib.decompressobj()
        rows = stream.decompress(packed, needed + 1)
    except zlib.error:
        raise _damaged() from None
    filters = rows[:: width + 1]
    if len(rows) != needed or max(filters) > 4 or packing or filtering or interlacing or not stream.eof:
        raise _damaged()
    return _SIGNATURE + _chunk(b"IHDR", head) + _chunk(b"IDAT", packed) + _chunk(b"IEND", b""), height, width


def _chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def _damaged() -> BackendError:
    return BackendError("The server's PNG is damaged: ask again.")

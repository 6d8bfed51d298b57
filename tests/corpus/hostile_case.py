"""Hostile files for the tests of the sandbox: small ones that ask for much, and ones that are not what they say."""

from __future__ import annotations

import gzip
import io
import pickle
import struct
import zipfile
import zlib
from collections.abc import Iterator
from pathlib import Path

import av
import dicom_factory
import numpy as np
import SimpleITK as sitk
from PIL import Image
from pydicom import uid


def hostile(folder: Path) -> Iterator[Path]:
    """Files that are small and ask for very much, or are something else than their names say."""
    folder.mkdir(parents=True, exist_ok=True)
    yield from _hostile_dicom(folder)
    for name, form, options in (
        ("png_of_81_million_pixels.png", "PNG", {"compress_level": 1}),
        ("tiff_of_81_million_pixels.tif", "TIFF", {"compression": "tiff_deflate"}),
    ):
        Image.fromarray(np.zeros((9000, 9000), np.uint8)).save(folder / name, form, **options)
        yield folder / name
    small = io.BytesIO()
    Image.new("L", (8, 8)).save(small, "PNG")
    ihdr = b"IHDR" + struct.pack(">II", 60000, 60000) + small.getvalue()[24:29]
    claim = small.getvalue()[:12] + ihdr + struct.pack(">I", zlib.crc32(ihdr)) + small.getvalue()[33:]
    yield _written(folder / "png_that_claims_60000.png", claim)
    yield _written(folder / "jpeg_that_claims_65500.jpg", _wide_jpeg())
    yield _written(folder / "gif_that_claims_65535.gif", b"GIF89a\xff\xff\xff\xff\x80\0\0" + bytes(6) + b";")
    yield from _hostile_videos(folder)
    yield from _hostile_volumes(folder)
    zipped = io.BytesIO()
    with zipfile.ZipFile(zipped, "w") as archive:
        archive.writestr("../../x.dcm", b"x" * 1000)
    playlist = (
        b"#EXTM3U\n#EXT-X-TARGETDURATION:9\n#EXTINF:9,\n"
        + str(folder / "jpeg_video_of_65500_squared.mp4").encode()
        + b"\n"
    )
    others = {
        "m3u8": playlist + b"#EXT-X-ENDLIST\n",
        "ffconcat": b"ffconcat version 1.0\nfile png_of_81_million_pixels.png\n",
        "svg": b'<svg xmlns="http://www.w3.org/2000/svg"><image href="file:///etc/hostname"/></svg>',
        "html": b"<!doctype html><script>alert(1)</script>" + b" " * 400,
        "zip": zipped.getvalue(),
        "pickle": pickle.dumps(print),
    }
    for name, data in others.items():
        for suffix in (".dcm", ".png", ".mp4", ".mha"):
            yield _written(folder / f"{name}{suffix}", data)


def _hostile_dicom(folder: Path) -> Iterator[Path]:
    tiny = np.zeros((1, 8, 8), np.uint8)

    def saved(name: str, syntax: str | None = None, frame: bytes = b"", **facts) -> Path:
        ds = dicom_factory.ultrasound(tiny, **facts)
        if syntax:
            dicom_factory.encapsulated(ds, syntax, [frame] * min(10, int(facts.get("NumberOfFrames", 1))))
        return dicom_factory.save(ds, folder / f"{name}.dcm")

    run = b"\x81\0"  # 128 zeros, in PackBits
    segment = struct.pack("<16L", 1, 64, *[0] * 14) + run * (16000 * 16000 // 128)
    yield saved("rle_bomb", uid.RLELossless, segment, Rows=16000, Columns=16000)
    yield saved("claims_a_billion_native_frames", NumberOfFrames=10**9)
    yield saved("claims_a_billion_jpeg_frames", uid.JPEGBaseline8Bit, _wide_jpeg(), NumberOfFrames=10**9)
    yield saved("claims_65535_squared", uid.JPEG2000, b"\0" * 64, Rows=65535, Columns=65535)
    yield saved("claims_16384_squared", uid.JPEG2000, b"\0" * 64, Rows=16384, Columns=16384)
    yield saved("jpeg_frame_of_65500_squared", uid.JPEGBaseline8Bit, _wide_jpeg())
    plain = saved("plain").read_bytes()
    rows = plain.index(b"\x28\x00\x10\x00")
    long = struct.pack("<HH2s2xL", 0x0028, 0x0006, b"OB", 0xFFFFFFFE)
    yield _written(folder / "element_of_4_gigabytes.dcm", plain[:rows] + long + plain[rows:])
    yield _written(
        folder / "rows_of_4_gigabytes.dcm", plain[:rows] + b"\x28\0\x10\0UN\0\0\xfe\xff\xff\xff" + plain[rows:]
    )
    for name, tag in (("nested_regions", (0x0018, 0x6011)), ("nested_others", (0x0008, 0x1140))):
        sequence = struct.pack("<HH2s2xL", *tag, b"SQ", 0xFFFFFFFF) + struct.pack("<HHL", 0xFFFE, 0xE000, 0xFFFFFFFF)
        yield _written(folder / f"{name}.dcm", plain[:rows] + sequence * 20000 + plain[rows:])
    explicit = b""
    for _ in range(900):
        explicit = struct.pack("<HHL", 0xFFFE, 0xE000, len(explicit)) + explicit
        explicit = struct.pack("<HH2s2xL", 0x0018, 0x6011, b"SQ", len(explicit)) + explicit
    yield _written(folder / "nested_regions_with_lengths.dcm", plain[:rows] + explicit + plain[rows:])
    bomb = saved("deflated_bomb")
    head = bomb.read_bytes().replace(b"1.2.840.10008.1.2.1\0", b"1.2.840.10008.1.2.1.99", 1)
    head = head.replace(b"\x02\0\x10\0UI\x14\0", b"\x02\0\x10\0UI\x16\0", 1)
    packer = zlib.compressobj(9, zlib.DEFLATED, -15)
    squeezed = b"".join(packer.compress(bytes(1 << 24)) for _ in range(8)) + packer.flush()
    yield _written(bomb, head + squeezed)


def _hostile_videos(folder: Path) -> Iterator[Path]:
    for name, codec, changed in (
        ("jpeg_video_of_65500_squared.mp4", "mjpeg", {}),
        ("video_of_30000_squared.avi", "rawvideo", {b"\x40\0\0\0\x30\0\0\0": struct.pack("<II", 30000, 30000)}),
        ("video_of_65535_squared.mov", "rawvideo", {b"\0\x40\0\x30\0H\0\0": b"\xff\xff\xff\xff\0H\0\0"}),
    ):
        path = folder / name
        with av.open(str(path), "w") as container:
            stream = container.add_stream(codec, rate=25)
            stream.width, stream.height = 64, 48
            stream.pix_fmt = "yuvj420p" if codec == "mjpeg" else "yuyv422"
            container.mux(stream.encode(av.VideoFrame.from_ndarray(np.zeros((48, 64), np.uint8), format="gray")))
            container.mux(stream.encode())
        data = path.read_bytes()
        if codec == "mjpeg":
            data = _widened(data)
        for old, new in changed.items():
            assert old in data, name
            data = data.replace(old, new)
        yield _written(path, data)


def _hostile_volumes(folder: Path) -> Iterator[Path]:
    path = folder / "gzip_bomb.nii.gz"
    sitk.WriteImage(sitk.GetImageFromArray(np.zeros((2, 8, 8), np.uint8)), str(path))
    header = bytearray(gzip.decompress(path.read_bytes())[:352])
    struct.pack_into("<4h", header, 40, 3, 8000, 8000, 20)
    # Members may follow each other: gigabytes of zeros from some that are packed once.
    zeros = gzip.compress(bytes(1 << 26), 9)
    yield _written(path, gzip.compress(bytes(header)) + zeros * 20)
    struct.pack_into("<4h", header, 40, 3, 8, 8, 2)
    yield _written(folder / "gzip_bomb_behind_a_small_image.nii.gz", gzip.compress(bytes(header)) + zeros * 128)
    for name, size, kind in (
        ("volume_of_a_terabyte.mha", "10000 10000 10000", "MET_UCHAR"),
        ("slice_of_a_terabyte.mha", "1000000 1000000 1", "MET_UCHAR"),
        ("volume_of_shorts.mha", "30000 30000 30000", "MET_SHORT"),
    ):
        text = f"ObjectType = Image\nNDims = 3\nDimSize = {size}\nElementType = {kind}\nElementDataFile = LOCAL\n"
        yield _written(folder / name, text.encode() + bytes(4096))
    text = "NRRD0004\ntype: uchar\ndimension: 3\nsizes: 8000 8000 20\nencoding: gzip\n\n"
    yield _written(folder / "gzip_bomb.nrrd", text.encode() + zeros * 20)


def _wide_jpeg() -> bytes:
    return _widened(dicom_factory.jpeg(np.zeros((8, 8), np.uint8)))


def _widened(data: bytes) -> bytes:
    """The size in the JPEG's start of frame becomes 65500 x 65500."""
    start = data.index(b"\xff\xc0")
    return data[: start + 5] + struct.pack(">HH", 65500, 65500) + data[start + 9 :]


def _written(path: Path, data: bytes) -> Path:
    path.write_bytes(data)
    return path

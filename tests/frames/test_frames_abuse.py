"""Damaged and hostile files through the limited process: frames or a named error, within its memory and its time."""

from __future__ import annotations

import io
import resource
import struct
import time
import tracemalloc
import zlib
from pathlib import Path

import numpy as np
import pytest
from dicom_factory import encapsulated, jpeg, lossless_clip, save, ultrasound
from pydicom import uid
from pydicom.pixels import get_encoder

from sonodistill.errors import SonoDistillError, UnreadableFileError, UnsupportedFormatError
from sonodistill.frames.dicom import check_dicom
from sonodistill.frames.isolated import IsolatedReader

# One or more of each transfer syntax that pydicom and pydicom-data have ultrasound in.
PUBLIC = [
    "US1_UNCR.dcm",
    "ExplVR_BigEnd.dcm",
    "color-pl.dcm",
    "examples_palette.dcm",
    "gdcm-US-ALOKA-16.dcm",
    "OBXXXX1A_expb_2frame.dcm",
    "OBXXXX1A_rle.dcm",
    "examples_ybr_color.dcm",
    "US1_J2KI.dcm",
    "US1_J2KR.dcm",
    "JPGLosslessP14SV1_1s_1f_8b.dcm",
]
SYNTHETIC = ["JPEG-LS", "H.264"]
QUICK, ALL = 12, 170
MEMORY_MB, SECONDS = 1024, 20


@pytest.fixture(scope="module")
def reader():
    with IsolatedReader(memory_mb=MEMORY_MB, seconds=SECONDS) as opened:
        yield opened


@pytest.fixture(scope="session")
def seed(pydicom_file, tmp_path_factory):
    def of(name: str) -> bytes:
        if name not in SYNTHETIC:
            return pydicom_file(name).read_bytes()
        folder = tmp_path_factory.mktemp("seeds")
        if name == "JPEG-LS":
            frames = np.random.default_rng(0).integers(0, 60, (3, 120, 160), np.uint8)
            return lossless_clip(folder / "s.dcm", frames).read_bytes()
        return video(folder / "v.dcm").read_bytes()

    return of


def video(path: Path) -> Path:
    """Encapsulated H.264, ten frames of 64 x 48."""
    import av

    if "libx264" not in av.codecs_available:
        pytest.skip("this PyAV has no H.264 encoder")
    buffer = io.BytesIO()
    with av.open(buffer, "w", format="mpegts") as output:
        stream = output.add_stream("libx264", rate=25)
        stream.width, stream.height, stream.pix_fmt = 64, 48, "yuv420p"
        for value in range(40, 220, 18):
            output.mux(stream.encode(av.VideoFrame.from_ndarray(np.full((48, 64), value, np.uint8), format="gray")))
        output.mux(stream.encode())
    data = buffer.getvalue()
    ds = ultrasound(np.zeros((10, 48, 64, 3), np.uint8), photometric="YBR_PARTIAL_420", CineRate=25)
    ds = encapsulated(ds, "1.2.840.10008.1.2.4.102", [data + b"\0" * (len(data) % 2)], offset_table=False)
    return save(ds, path)


def damaged(whole: bytes, rng: np.random.Generator) -> bytes:
    """One way a file comes to harm: flipped bytes somewhere, a wrong length, a part lost, doubled or cut off."""
    data = bytearray(whole)
    pixels = max(whole.rfind(b"\xe0\x7f\x10\x00"), whole.rfind(b"\x7f\xe0\x00\x10"), 400)
    start, end = [(132, pixels), (pixels, min(pixels + 600, len(data))), (132, len(data))][rng.integers(3)]
    kind = rng.integers(6)
    if kind <= 2:
        for at in rng.integers(start, end, 1 << rng.integers(5)):
            data[at] = rng.integers(256)
    elif kind == 3:
        at = int(rng.integers(start, end - 4))
        data[at : at + 4] = struct.pack("<L", int(rng.choice([0, 1, 0xFFFE, 0xFFFFFFFE, 0xFFFFFFFF])))
    elif kind == 4:
        at, length = int(rng.integers(start, end)), int(rng.integers(1, 200))
        data[at : at + length] = b"" if rng.integers(2) else bytes(data[at : at + length]) * 2
    else:
        del data[int(rng.integers(start, end)) :]
    return bytes(data)


def outcome(reader: IsolatedReader, path: Path) -> str:
    """What became of the file, within the limits; any other error fails the test."""
    began = time.monotonic()
    try:
        count = sum(1 for _ in reader.read(path))
    except (UnreadableFileError, UnsupportedFormatError) as error:
        assert error.path == path and 0 < len(error.message) < 700
        count = -1
    # Beside the time of the file this is that of a child that has to be started.
    assert time.monotonic() - began < SECONDS + 60
    assert reader.peak_mb <= MEMORY_MB
    return "frames" if count > 0 else "refused"


def resident_mb() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def abuse(reader: IsolatedReader, folder: Path, name: str, whole: bytes, numbers: range) -> set[str]:
    seen, before = set(), resident_mb()
    for number in numbers:
        path = folder / f"{number}.dcm"
        path.write_bytes(damaged(whole, np.random.default_rng([number, *name.encode()])))
        seen.add(outcome(reader, path))
        path.unlink()
    assert resident_mb() - before < 400
    return seen


@pytest.mark.parametrize("name", PUBLIC + SYNTHETIC)
def test_damaged_files_are_frames_or_named_errors(reader, seed, tmp_path, name):
    assert "refused" in abuse(reader, tmp_path, name, seed(name), range(QUICK))


@pytest.mark.slow
@pytest.mark.parametrize("name", PUBLIC + SYNTHETIC)
def test_many_damaged_files_are_frames_or_named_errors(reader, seed, tmp_path, name):
    seen = abuse(reader, tmp_path, name, seed(name), range(QUICK, QUICK + ALL))
    assert seen == {"frames", "refused"} or name.startswith("JPGLossless")


def encoded(syntax: str, plugin: str) -> bytes:
    """A 64 x 64 picture."""
    image = np.arange(64 * 64, dtype=np.uint32).astype(np.uint8)
    described = {"bits_allocated": 8, "bits_stored": 8, "pixel_representation": 0, "samples_per_pixel": 1}
    size = {"rows": 64, "columns": 64, "number_of_frames": 1, "photometric_interpretation": "MONOCHROME2"}
    return get_encoder(syntax).encode(image.tobytes(), encoding_plugin=plugin, **described, **size)


def still(path: Path, syntax: str, data: bytes, rows: int = 64, columns: int = 64) -> Path:
    ds = ultrasound(np.zeros((1, 1, 1), np.uint8))
    ds.Rows, ds.Columns = rows, columns
    return save(encapsulated(ds, syntax, [data + b"\0" * (len(data) % 2)]), path)


def resized_jpeg(data: bytes, marker: bytes, side: int) -> bytes:
    at = data.index(marker) + 5
    return data[:at] + struct.pack(">HH", side, side) + data[at + 4 :]


@pytest.mark.parametrize("side", [16384, 65500])
def test_jpeg_and_jpeg_ls_that_claim_a_giant_picture(reader, tmp_path, side):
    baseline = resized_jpeg(jpeg(np.zeros((64, 64), np.uint8)), b"\xff\xc0", side)
    jpeg_ls = resized_jpeg(encoded(uid.JPEGLSLossless, "pyjpegls"), b"\xff\xf7", side)
    for syntax, data in ((uid.JPEGBaseline8Bit, baseline), (uid.JPEGLSLossless, jpeg_ls)):
        for rows in (64, min(side, 4096)):
            assert outcome(reader, still(tmp_path / "bomb.dcm", syntax, data, rows, rows)) == "refused"


@pytest.mark.parametrize("side", [30000, 0x7FFFFFFF])
def test_jpeg_2000_that_claims_a_giant_picture(reader, tmp_path, side):
    data = encoded(uid.JPEG2000Lossless, "pylibjpeg")
    at = data.index(b"\xff\x51") + 6
    for tile in (64, side):
        bomb = data[:at] + struct.pack(">LLLLLL", side, side, 0, 0, tile, tile) + data[at + 24 :]
        assert outcome(reader, still(tmp_path / "bomb.dcm", uid.JPEG2000Lossless, bomb)) == "refused"


def rle(length: int) -> bytes:
    """A frame of one segment of zeros, 128 in each two bytes."""
    return struct.pack("<16L", 1, 64, *[0] * 14) + b"\x81\0" * (length // 128)


def test_rle_that_grows_beyond_the_memory(tmp_path):
    with IsolatedReader(memory_mb=512, seconds=SECONDS) as small:
        path = still(tmp_path / "bomb.dcm", uid.RLELossless, rle(400 << 20), 8192, 8192)
        with pytest.raises(UnreadableFileError, match="frame 1 of 1|SIG"):
            list(small.read(path))
        small_file = still(tmp_path / "fine.dcm", uid.RLELossless, rle(64 * 64))
        assert sum(1 for _ in small.read(small_file)) == 1


@pytest.mark.slow
def test_rle_of_14_mb_that_grows_to_900(reader, tmp_path):
    path = still(tmp_path / "bomb.dcm", uid.RLELossless, rle(900 << 20))
    assert path.stat().st_size < 16 << 20
    outcome(reader, path)


def test_a_segmented_palette_that_grows_without_end(reader, tmp_path):
    ds = ultrasound(np.zeros((1, 8, 8), np.uint8), photometric="PALETTE COLOR")
    segments = struct.pack("<HHH", 0, 1, 5) + struct.pack("<HHH", 1, 65535, 9) * 5000
    for colour in ("Red", "Green", "Blue"):
        setattr(ds, f"{colour}PaletteColorLookupTableDescriptor", [256, 0, 16])
        setattr(ds, f"Segmented{colour}PaletteColorLookupTableData", segments)
    assert outcome(reader, save(ds, tmp_path / "bomb.dcm")) == "refused"


def test_a_deflated_file_is_refused_before_it_is_inflated(tmp_path):
    ds = ultrasound(np.zeros((1, 8, 8), np.uint8))
    head = save(ds, tmp_path / "n.dcm").read_bytes()
    deflate = zlib.compressobj(9, wbits=-15)
    body = b"".join([deflate.compress(bytes(1 << 20)) for _ in range(64)]) + deflate.flush()
    ds.file_meta.TransferSyntaxUID = uid.DeflatedExplicitVRLittleEndian
    meta = save(ds, tmp_path / "d.dcm").read_bytes()[: len(head) - len(head[head.index(b"\x08\x00\x16\x00") :]) + 4]
    (tmp_path / "bomb.dcm").write_bytes(meta + body)
    tracemalloc.start()
    with pytest.raises(UnsupportedFormatError, match="Deflated"):
        check_dicom(tmp_path / "bomb.dcm")
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 4 << 20


def nested(depth: int) -> bytes:
    item = b"\xfe\xff\x00\xe0\xff\xff\xff\xff"
    return (b"\x18\x00\x11\x60SQ\0\0\xff\xff\xff\xff" + item) * depth


def nested_with_lengths(depth: int) -> bytes:
    inner = b""
    for _ in range(depth):
        item = b"\xfe\xff\x00\xe0" + struct.pack("<L", len(inner)) + inner
        inner = b"\x18\x00\x11\x60SQ\0\0" + struct.pack("<L", len(item)) + item
    return inner


@pytest.mark.parametrize(
    "inserted",
    [
        nested(20_000),
        nested_with_lengths(5_000),
        b"\x18\x00\x11\x60SQ\0\0" + struct.pack("<L", 8 * 50_000) + b"\xfe\xff\x00\xe0\0\0\0\0" * 50_000,
        b"".join(b"\x19\x00" + struct.pack("<H", 0x1000 + i % 0xE000) + b"LO\x02\0ab" for i in range(200_000)),
    ],
    ids=["nested", "nested with lengths", "regions", "elements"],
)
def test_headers_that_would_cost_time_are_refused_by_the_guard(tmp_path, inserted):
    with pytest.raises(UnreadableFileError):
        check_dicom(with_inserted(tmp_path, inserted))


@pytest.mark.parametrize("length", [17 << 20, 0xFFFFFFFE])
def test_attributes_that_would_cost_memory_are_refused_by_the_guard(tmp_path, length):
    long = b"\x18\x00\x65\x10UN\0\0" + struct.pack("<L", length) + bytes(18 << 20)
    path = with_inserted(tmp_path, long)
    tracemalloc.start()
    with pytest.raises(UnreadableFileError):
        check_dicom(path)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 8 << 20


def with_inserted(folder: Path, elements: bytes) -> Path:
    """A sound file with these bytes before its Image Pixel module."""
    whole = save(ultrasound(np.zeros((1, 8, 8), np.uint8)), folder / "n.dcm").read_bytes()
    at = whole.index(b"\x28\x00\x02\x00US")
    (folder / "bomb.dcm").write_bytes(whole[:at] + elements + whole[at:])
    return folder / "bomb.dcm"


def test_a_frame_in_a_hundred_thousand_fragments_is_refused(tmp_path):
    path = still(tmp_path / "f.dcm", uid.JPEGBaseline8Bit, jpeg(np.zeros((64, 64), np.uint8)))
    data = path.read_bytes()
    at = data.rindex(b"\xfe\xff\xdd\xe0")
    path.write_bytes(data[:at] + b"\xfe\xff\x00\xe0\0\0\0\0" * 100_000 + data[at:])
    with pytest.raises(UnreadableFileError, match="more than"):
        check_dicom(path)


def test_a_file_that_changes_after_the_guard_cannot_change_the_size_of_a_frame(reader, tmp_path, monkeypatch):
    path = save(ultrasound(np.zeros((2, 8, 8), np.uint8)), tmp_path / "swapped.dcm")

    def swapping(checked: Path):
        header = check_dicom(checked)
        save(ultrasound(np.zeros((2, 600, 800), np.uint8)), path)
        return header

    monkeypatch.setattr("sonodistill.frames.isolated.check_dicom", swapping)
    with pytest.raises(SonoDistillError, match="something else at frame 1"):
        list(reader.read(path))

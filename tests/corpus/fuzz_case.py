"""Damaged files for the tests of the sandbox: seeds of every format, what is done to them, and how a run ended."""

from __future__ import annotations

import io
import os
import re
import struct
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import av
import dicom_factory
import numpy as np
import pydicom
import SimpleITK as sitk
from PIL import Image
from pydicom import uid

from sonodistill_training.corpus.extraction import Extraction
from sonodistill_training.corpus.sandbox import ChildDiedError, Sandbox

PATIENT = "Zebedee^Quill"
"""Of the generated DICOM files; no reason may ever quote it."""

_FOLDERS = (
    Path(pydicom.__file__).parent / "data" / "test_files",
    Path(pydicom.__file__).parents[1] / "data_store" / "data",
)
_KEY = "00" * 32
# What a message of a library may hold and a manifest may not: addresses, paths of its own code, traces.
_GUTS = re.compile(
    r"Traceback|site-packages|object at|0x[0-9a-fA-F]{5,}|\.(py|cxx|hxx|c|rs)\b|/[a-z]+/[a-z]+", re.ASCII
)


@dataclass(frozen=True, slots=True)
class Seed:
    """A sound file: ``body`` is where its pixels start, as far as that matters."""

    name: str
    suffix: str
    data: bytes
    body: int


@dataclass(frozen=True, slots=True)
class Outcome:
    """How a file ended: ``status`` is that of the report, or "died"."""

    status: str
    reason: str | None
    seconds: float
    peak_bytes: int | None

    @property
    def faults(self) -> list[str]:
        """What is wrong with the reason."""
        if self.status == "read":
            return [] if self.reason is None else ["a file that was read has a reason"]
        found = [] if self.reason else ["no reason"]
        if self.reason and _GUTS.search(self.reason):
            found.append("it quotes the inside of a library")
        if self.reason and any(part in self.reason for part in PATIENT.split("^")):
            found.append("it quotes the patient")
        return found


def public_dicom(largest: int) -> Iterator[Seed]:
    """The files of pydicom and pydicom-data up to a size in bytes."""
    for folder in _FOLDERS:
        for path in sorted(folder.rglob("*.dcm")) if folder.is_dir() else ():
            if path.stat().st_size <= largest:
                yield _dicom(path.name, path.read_bytes())


def generated(folder: Path) -> Iterator[Seed]:
    """One small file of each format that is read, written below ``folder``."""
    folder.mkdir(parents=True, exist_ok=True)
    gray = _speckle()
    yield from _images(gray)
    yield from _videos(folder, gray)
    yield from _volumes(folder)
    yield from _generated_dicom(folder, gray)


def _speckle() -> np.ndarray:
    """(6, 80, 96) uint8: a fan of noise that moves."""
    rng = np.random.default_rng(5)
    rows, columns = np.mgrid[:80, :96]
    inside = np.hypot(rows - 2, columns - 48) < 74
    inside &= np.abs(columns - 48) < 0.9 * rows
    noise = rng.gamma(1.5, 40, (6, 80, 96)).clip(1, 255)
    return (noise * inside).astype(np.uint8)


def _images(clip: np.ndarray) -> Iterator[Seed]:
    colour = np.repeat(clip[0][..., None], 3, axis=-1)
    colour[:8, :8] = (200, 10, 10)
    for suffix, form, options in (
        (".png", "PNG", {}),
        (".jpg", "JPEG", {}),
        (".tif", "TIFF", {"compression": "tiff_lzw"}),
        (".tiff", "TIFF", {}),
        (".bmp", "BMP", {}),
    ):
        buffer = io.BytesIO()
        Image.fromarray(colour).save(buffer, form, **options)
        yield Seed(f"generated{suffix}", suffix, buffer.getvalue(), 64)
    buffer = io.BytesIO()
    pages = [Image.fromarray(frame) for frame in clip]
    pages[0].save(buffer, "GIF", save_all=True, append_images=pages[1:], duration=40)
    yield Seed("generated.gif", ".gif", buffer.getvalue(), 800)
    buffer = io.BytesIO()
    pages[0].save(buffer, "TIFF", save_all=True, append_images=pages[1:], compression="tiff_deflate")
    yield Seed("pages.tif", ".tif", buffer.getvalue(), 64)


def _videos(folder: Path, clip: np.ndarray) -> Iterator[Seed]:
    for suffix, codec in ((".mp4", "libx264"), (".avi", "mjpeg"), (".mkv", "ffv1"), (".mpg", "mpeg2video")):
        path = folder / f"generated{suffix}"
        with av.open(str(path), "w") as container:
            stream = container.add_stream(codec, rate=25)
            stream.height, stream.width = clip.shape[1:]
            stream.pix_fmt = "yuvj420p" if codec == "mjpeg" else "yuv420p"
            for image in clip:
                container.mux(stream.encode(av.VideoFrame.from_ndarray(image, format="gray")))
            container.mux(stream.encode())
        yield Seed(path.name, suffix, path.read_bytes(), 256)


def _volumes(folder: Path) -> Iterator[Seed]:
    voxels = np.random.default_rng(6).integers(0, 256, (5, 72, 70), dtype=np.uint8)
    for name in ("generated.nrrd", "generated.mha", "generated.nii", "generated.nii.gz", "deep.nrrd", "deep.nii"):
        image = sitk.GetImageFromArray(voxels.astype(np.int16) if name.startswith("deep") else voxels)
        image.SetSpacing([0.4, 0.3, 0.5])
        sitk.WriteImage(image, str(folder / name), useCompression=name == "generated.mha")
        suffix = ".nii.gz" if name.endswith(".gz") else Path(name).suffix
        yield Seed(name, suffix, (folder / name).read_bytes(), 352)


def _generated_dicom(folder: Path, clip: np.ndarray) -> Iterator[Seed]:
    facts = {"PatientName": PATIENT, "PatientID": PATIENT, "InstitutionName": PATIENT, "FrameTime": "40"}
    regions = [dicom_factory.region(0, 0, 95, 79)]
    ds = dicom_factory.ultrasound(clip, **facts, SequenceOfUltrasoundRegions=regions)
    yield _dicom("native.dcm", dicom_factory.save(ds, folder / "native.dcm").read_bytes())
    for name, syntax in (("rle.dcm", uid.RLELossless), ("jpegls.dcm", uid.JPEGLSLossless)):
        yield _dicom(name, dicom_factory.lossless_clip(folder / name, clip, syntax=syntax).read_bytes())
    ds = dicom_factory.ultrasound(clip, **facts, SequenceOfUltrasoundRegions=regions)
    dicom_factory.encapsulated(ds, uid.JPEGBaseline8Bit, [dicom_factory.jpeg(frame) for frame in clip])
    yield _dicom("jpeg.dcm", dicom_factory.save(ds, folder / "jpeg.dcm").read_bytes())
    video = (folder / "generated.mpg").read_bytes()
    ds = dicom_factory.ultrasound(np.zeros((6, 80, 96, 3), np.uint8), photometric="YBR_PARTIAL_420", **facts)
    dicom_factory.encapsulated(ds, "1.2.840.10008.1.2.4.100", [video + b"\0" * (len(video) % 2)])
    yield _dicom("video.dcm", dicom_factory.save(ds, folder / "video.dcm").read_bytes())


def _dicom(name: str, data: bytes) -> Seed:
    body = max(data.rfind(b"\xe0\x7f\x10\x00"), data.rfind(b"\x7f\xe0\x00\x10"))
    return Seed(name, ".dcm", data, body if body > 0 else min(len(data), 1024))


DAMAGES = (
    *(f"{part}:{count}" for part in ("header", "pixels", "anywhere") for count in (1, 8, 64)),
    *("truncated", "zeroed", "doubled", "lengths"),
)


def damaged(seed: Seed, damage: str, rng: np.random.Generator) -> bytes:
    """The seed's bytes after one of ``DAMAGES``: flips by part and number, a cut, a span zeroed or doubled."""
    data = bytearray(seed.data)
    size, body = len(data), min(seed.body, len(seed.data) - 1)
    part, _, count = damage.partition(":")
    if count:
        low, high = {"header": (0, max(1, body)), "pixels": (body, size), "anywhere": (0, size)}[part]
        # The preamble of a DICOM file means nothing.
        low = 132 if low == 0 and seed.suffix == ".dcm" and high > 132 else low
        for place in rng.integers(low, high, int(count)):
            data[place] ^= 1 << int(rng.integers(8)) if rng.random() < 0.5 else int(rng.integers(1, 256))
    elif damage == "truncated":
        del data[int(rng.integers(1, size)) :]
    elif damage == "lengths":
        # Numbers at the ends of their ranges, where sizes and counts may stand.
        for place in rng.integers(0, max(1, min(body + 16, size - 4)), 4):
            value = rng.choice(np.array([0, 0xFFFFFFFE, 0xFFFFFFFF, 0x7FFFFFFF, 0x80000000, 0xFFFF], np.uint32))
            data[place : place + 4] = struct.pack(rng.choice(["<I", ">I"]), int(value))
    else:
        start = int(rng.integers(0, size))
        span = slice(start, start + int(rng.integers(1, max(2, min(size, 4096)))))
        data[span] = bytes(len(data[span])) if damage == "zeroed" else data[span] * 2
    return bytes(data)


def run(sandbox: Sandbox, path: Path, options: Extraction | None = None) -> Outcome:
    """Extract a file as a build does."""
    started = time.monotonic()
    report: dict | None = None
    arguments = {"file": str(path), "options": (options or Extraction()).to_json(), "key": _KEY}
    try:
        for header, _ in sandbox.run(arguments):
            if header["kind"] == "file":
                report = header
    except ChildDiedError as error:
        return Outcome("died", error.message, time.monotonic() - started, None)
    assert report is not None, "a task that ends well ends with its report"
    return Outcome(report["status"], report["reason"], time.monotonic() - started, peak_of(sandbox.pid))


def peak_of(pid: int | None) -> int | None:
    """Bytes of address space a process ever had, where the system says."""
    try:
        status = Path(f"/proc/{pid}/status").read_text()
    except OSError:
        return None
    found = re.search(r"VmPeak:\s+(\d+) kB", status)
    return int(found[1]) << 10 if found else None


def children_of_this_process() -> set[int]:
    """Process ids, zombies among them, where the system says."""
    found = set()
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = stat.read_text().rpartition(")")[2].split()
        except OSError:
            continue
        if int(fields[1]) == os.getpid():
            found.add(int(stat.parent.name))
    return found

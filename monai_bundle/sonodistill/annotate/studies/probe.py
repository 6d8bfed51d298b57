"""Open a file once to learn what an item needs of it: its kind, its frames, and, as an opaque text, whose it is."""

from __future__ import annotations

import errno
import hashlib
import itertools
import re
from pathlib import Path

from sonodistill.annotate.ids import MAX_FRAMES
from sonodistill.annotate.studies.file_index import Known
from sonodistill.errors import SonoDistillError, UnreadableFileError
from sonodistill.frames import read
from sonodistill.frames.find import kind_of
from sonodistill.frames.video import open_video

_UID = re.compile(r"[0-9.]{1,64}")
_TAIL = 64
_PASSING = (errno.EIO, errno.EACCES, errno.EPERM, errno.EMFILE, errno.ENFILE, errno.ESTALE, errno.ETIMEDOUT)
# MPEG2, H.264 and HEVC in DICOM.
_VIDEO_SYNTAX = re.compile(r"1\.2\.840\.10008\.1\.2\.4\.10[0-8](\.1)?")


def learn(path: Path, stamp: str, secret: bytes) -> Known:
    """What a file is; a file that cannot be used has a ``reason``.

    Args:
        path: the file.
        stamp: that goes with it.
        secret: that the identity of a patient is hashed with.
    """
    try:
        kind = kind_of(path)
        if kind == "dicom":
            known = _dicom(path, stamp, secret)
        else:
            frames = {"image": _pages, "video": _pictures, "volume": _slices}[kind](path)
            known = Known(stamp, kind, frames, sequential=kind != "image")
        if not 0 < known.frames <= MAX_FRAMES:
            raise UnreadableFileError(f"the file holds {known.frames} frames")
        return known
    except SonoDistillError as error:
        # Without a stamp the file is looked at again.
        return Known("" if is_passing(error) else stamp, reason=error.message)
    except StopIteration:
        return Known(stamp, reason="the file holds no frame")
    except Exception as error:  # noqa: BLE001 - whatever it is, one file keeps no other from being listed
        return Known("", reason=f"the file cannot be read ({type(error).__name__})")


def is_passing(error: SonoDistillError) -> bool:
    """Whether the disk was at fault, or the machine, and not the file."""
    return isinstance(error.__cause__, OSError) and error.__cause__.errno in _PASSING


def _dicom(path: Path, stamp: str, secret: bytes) -> Known:
    from sonodistill.frames.dicom import check_dicom

    header = check_dicom(path)
    patient, study, series = _uids(path)
    identity = ""
    for what, text in (("patient", patient), ("study", study)):
        if text and not identity:
            digest = hashlib.blake2b(text.encode("utf-8", "replace"), key=secret, digest_size=10, person=what.encode())
            identity = f"{what}-{digest.hexdigest()}"
    sequential = _VIDEO_SYNTAX.fullmatch(str(header.syntax)) is not None
    return Known(stamp, "dicom", header.frames, sequential, identity, series if _UID.fullmatch(series) else "")


def _uids(path: Path) -> tuple[str, str, str]:
    """(Patient ID, Study Instance UID, Series Instance UID), "" for what is not there."""
    from pydicom import config, dcmread

    from sonodistill.frames.bounds import MAX_READS, BoundedFile

    tags = ["PatientID", "StudyInstanceUID", "SeriesInstanceUID"]
    try:
        with path.open("rb") as file, config.disable_value_validation():
            bounded = BoundedFile(file, MAX_READS)
            ds = dcmread(bounded, stop_before_pixels=True, specific_tags=[*tags])  # type: ignore[arg-type]
            patient, study, series = (str(ds.get(tag) or "").strip()[:1024] for tag in tags)
    except Exception as error:  # noqa: BLE001 - whatever malformed bytes provoke
        raise UnreadableFileError(f"the DICOM header is malformed ({type(error).__name__})") from None
    return patient, study, series


def _pages(path: Path) -> int:
    """Pages of an image; it is decoded only where its end does not show that it is whole."""
    with path.open("rb") as file:
        head = file.read(3)
        size = file.seek(0, 2)
        file.seek(max(0, size - _TAIL))
        tail = file.read()
    if not (
        (head == b"\x89PN" and tail.endswith(b"IEND\xaeB`\x82")) or (head == b"\xff\xd8\xff" and b"\xff\xd9" in tail)
    ):
        return _slices(path)
    from PIL import Image

    from sonodistill.frames.bounds import check_size

    try:
        with Image.open(path, formats=("PNG", "JPEG")) as image:
            check_size(image.height, image.width, path)
    except SonoDistillError:
        raise
    except Exception as error:  # Pillow raises what it likes for damaged data
        raise UnreadableFileError(f"the image cannot be opened ({type(error).__name__})", path=path) from error
    return 1


def _slices(path: Path) -> int:
    """How many frames a file holds whose header says so, once the first was decoded."""
    return next(read(path, only=[0])).provenance.frames or 1


def _pictures(path: Path) -> int:
    """How many frames there are of a video, once the first was decoded: headers are silent or wrong, so look."""
    import av

    next(read(path, only=[0]))
    try:
        with open_video(str(path), path) as container:
            stream = container.streams.video[0]
            packets = (packet for packet in container.demux(stream) if packet.size and not packet.is_discard)
            return sum(1 for _ in itertools.islice(packets, MAX_FRAMES + 1))
    except (av.FFmpegError, OSError, ValueError) as error:
        raise UnreadableFileError(f"the video breaks off ({type(error).__name__})", path=path) from error

"""Say what a file is, by its content first and its suffix second, and find the readable files of a folder."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

from sonodistill.errors import EmptyInputError, UnreadableFileError, UnsupportedFormatError

SUFFIXES: dict[str, tuple[str, ...]] = {
    "image": (".png", ".jpg", ".jpeg", ".bmp", ".tif", ".tiff"),
    "dicom": (".dcm", ".dicom"),
    "video": (".mp4", ".m4v", ".mov", ".avi", ".mkv", ".webm", ".mpg", ".mpeg", ".gif"),
    "volume": (".nii", ".nii.gz", ".nrrd", ".nhdr", ".mha", ".mhd"),
}

_PREAMBLE = 128
# NIfTI-1 states its header size (348) first and its magic at byte 344.
_HEAD = 348

_SIGNATURES: tuple[tuple[str, Callable[[bytes], bool]], ...] = (
    ("dicom", lambda head: head[_PREAMBLE : _PREAMBLE + 4] == b"DICM"),
    ("image", lambda head: head.startswith((b"\x89PNG\r\n\x1a\n", b"\xff\xd8\xff"))),
    ("image", lambda head: head.startswith((b"II*\x00", b"MM\x00*", b"II+\x00", b"MM\x00+"))),
    ("image", lambda head: head.startswith(b"BM") and head[6:10] == bytes(4)),
    ("video", lambda head: head[4:8] in (b"ftyp", b"moov", b"mdat", b"wide")),
    ("video", lambda head: head.startswith(b"RIFF") and head[8:12] == b"AVI "),
    ("video", lambda head: head.startswith((b"\x1a\x45\xdf\xa3", b"\x00\x00\x01\xba", b"GIF87a", b"GIF89a"))),
    ("volume", lambda head: head.startswith((b"NRRD000", b"ObjectType =", b"NDims ="))),
    ("volume", lambda head: head[344:348] in (b"n+1\x00", b"ni1\x00")),
)


def kind_of(path: Path) -> str:
    """The reader a file needs: "image", "dicom", "video" or "volume".

    Errors: UnreadableFileError for a missing or empty file, UnsupportedFormatError for a kind that is not read.
    """
    if not path.exists():
        raise UnreadableFileError("there is no such file", path=path)
    if path.is_dir():
        raise UnsupportedFormatError(
            "this is a folder, not a file", path=path, remedy="read each of find_files(folder) in turn"
        )
    try:
        with path.open("rb") as file:
            head = file.read(_HEAD)
    except OSError as error:
        raise UnreadableFileError(f"the file cannot be opened: {error.strerror}", path=path) from error
    if not head:
        raise UnreadableFileError("the file is empty (0 bytes)", path=path, remedy="copy it again from its source")
    if head.startswith(b"KRETZ"):
        raise UnsupportedFormatError(
            "this is a GE Kretz volume, which is not read", path=path, remedy="export it as DICOM cine or NRRD"
        )
    for kind, matches in _SIGNATURES:
        if matches(head):
            return kind
    by_suffix = _kind_by_suffix(path.name)
    if by_suffix is None:
        known = " ".join(suffix for suffixes in SUFFIXES.values() for suffix in suffixes)
        raise UnsupportedFormatError("this kind of file is not read", path=path, remedy=f"convert it to one of {known}")
    return by_suffix


def find_files(path: str | Path) -> list[Path]:
    """The file itself, or the readable files under a folder, sorted.

    A file of a folder counts when its suffix is known, or when it has none (or a number, as files named by their UID
    have) and a DICOM preamble. Hidden files and folders, DICOMDIR and symbolic links that leave the folder are skipped.

    Errors: UnreadableFileError when there is no such path, EmptyInputError when a folder has no readable file.
    """
    root = Path(path)
    if not root.exists():
        raise UnreadableFileError("there is no such file or folder", path=root)
    if root.is_file():
        return [root]
    home = root.resolve()
    found = []
    for folder, folders, names in os.walk(root):
        folders[:] = [name for name in folders if not name.startswith(".")]
        for name in names:
            file = Path(folder, name)
            if name.startswith(".") or name.upper() == "DICOMDIR" or not file.is_file():
                continue
            if file.is_symlink() and not file.resolve().is_relative_to(home):
                continue
            if _kind_by_suffix(name) is not None or _is_bare_dicom(file):
                found.append(file)
    if not found:
        raise EmptyInputError(
            "the folder holds no readable file",
            path=root,
            remedy="point at a folder of DICOM, image (PNG, JPEG, BMP, TIFF), video (MP4, AVI, MOV, MKV, WebM, MPEG, "
            "GIF) or volume (NIfTI, NRRD, MHA) files",
        )
    return sorted(found)


def _kind_by_suffix(name: str) -> str | None:
    lower = name.lower()
    return next((kind for kind, suffixes in SUFFIXES.items() if lower.endswith(suffixes)), None)


def _is_bare_dicom(file: Path) -> bool:
    if file.suffix and not file.suffix[1:].isdigit():
        return False
    try:
        with file.open("rb") as opened:
            return opened.read(_PREAMBLE + 4)[_PREAMBLE:] == b"DICM"
    except OSError:
        return False

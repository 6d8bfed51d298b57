"""A folder as a ZIP file, and a ZIP file as a folder, with limits on what comes out of it."""

from __future__ import annotations

import shutil
import stat
import zipfile
import zlib
from pathlib import Path, PurePosixPath

from sonodistill.annotate.errors import InvalidLabelError, TooLargeError
from sonodistill.files import atomic_path

MAX_FILES = 200_000
MAX_BYTES = 4 << 30
"""Of all files together, unpacked."""

_CHUNK = 1 << 20


def pack(folder: Path, target: Path) -> None:
    """Write all files of a folder into a ZIP file, atomically, under their paths relative to it."""
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    with atomic_path(target) as temporary, zipfile.ZipFile(temporary, "w", zipfile.ZIP_DEFLATED, compresslevel=1) as to:
        for path in files:
            to.write(path, path.relative_to(folder).as_posix())


def unpack(archive: Path, folder: Path) -> None:
    """Unpack a ZIP file that somebody sent into an empty folder.

    Errors: InvalidLabelError for what is none, or holds a link, an encrypted file, one twice, or a path that leaves the
        folder; TooLargeError. What was unpacked until then stays.
    """
    try:
        with zipfile.ZipFile(archive) as found:
            infos = found.infolist()
            if len(infos) > MAX_FILES or sum(info.file_size for info in infos) > MAX_BYTES:
                raise TooLargeError(f"it holds more than {MAX_FILES} files or {MAX_BYTES >> 30} GB", path=archive)
            for info in infos:
                target = folder / _checked(info, archive)
                if info.is_dir():
                    continue
                target.parent.mkdir(parents=True, exist_ok=True)
                with found.open(info) as packed, target.open("xb") as file:
                    # ZipExtFile ends at the size that is stated.
                    shutil.copyfileobj(packed, file, _CHUNK)
    except (OSError, zipfile.BadZipFile, zlib.error, NotImplementedError, RuntimeError, ValueError) as error:
        raise InvalidLabelError(f"it cannot be unpacked ({type(error).__name__})", path=archive) from None


def _checked(info: zipfile.ZipInfo, archive: Path) -> str:
    path = PurePosixPath(info.filename)
    plain = info.filename.isprintable() and not any(character in info.filename for character in '\\:*?"<>|')
    if path.is_absolute() or not path.parts or not plain or any(part in ("..", ".") for part in path.parts):
        raise InvalidLabelError("it holds a path that leaves its folder, or is none", path=archive)
    if stat.S_ISLNK(info.external_attr >> 16) or info.flag_bits & 0x1:
        raise InvalidLabelError("it holds a link or an encrypted file", path=archive)
    if info.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
        raise InvalidLabelError("it is packed in a way that is not read", path=archive, remedy="pack it as usual")
    return info.filename

"""Volume headers that keep their values in another file: it has to lie beside them."""

from __future__ import annotations

import re
from pathlib import Path, PurePosixPath, PureWindowsPath

from sonodistill.errors import UnsupportedFormatError

_LONGEST_HEADER = 16 << 20  # a sequence has a few lines for each of its frames
_META = re.compile(rb"^ElementDataFile\s*=\s*([^\r\n]*)((?:\r?\n[^\r\n]*)*)", re.MULTILINE)
_NRRD = re.compile(rb"^data ?file:\s*([^\r\n]*)((?:\r?\n[^\r\n]*)*)", re.MULTILINE | re.IGNORECASE)
_META_END = re.compile(rb"^ElementDataFile\s*=\s*LOCAL", re.MULTILINE)
_NRRD_END = re.compile(rb"\r?\n\r?\n")


def check_stays_in_folder(path: Path) -> None:
    """Refuse a MetaImage or NRRD header that takes its values from outside of its folder.

    ITK would read any file of the machine as pixels.

    Errors: UnsupportedFormatError.
    """
    with path.open("rb") as file:
        start = file.read(4096)
        if start.startswith(b"NRRD"):
            pattern, end = _NRRD, _NRRD_END
        elif b"NDims" in start or b"ObjectType" in start:
            pattern, end = _META, _META_END
        else:
            return
        header = start + (b"" if end.search(start) else file.read(_LONGEST_HEADER))
    over = end.search(header)
    found = pattern.search(header[: over.start()] if over else header)
    if found is None:
        return
    names = [found[1], *(found[2].splitlines() if found[1].strip().upper().startswith(b"LIST") else ())]
    for name in (raw.decode("utf-8", "surrogateescape").strip() for raw in names):
        for form in (PurePosixPath(name), PureWindowsPath(name)):
            if form.is_absolute() or form.drive or ".." in form.parts:
                raise UnsupportedFormatError(
                    "its header takes the values from a file outside of its folder",
                    path=path,
                    remedy="keep header and values together, and name the values without a folder",
                )

"""Volume headers that keep their values in another file: it has to lie beside them."""

from __future__ import annotations

import re
from pathlib import Path, PurePosixPath, PureWindowsPath

from sonodistill.errors import UnsupportedFormatError

_START = 16 << 10  # ITK takes a file for a MetaImage by its first 8000 bytes
_LONGEST_HEADER = 16 << 20  # a sequence has a few lines for each of its frames
# Wherever it stands: ITK takes spaces before the key, and a colon for the sign.
_META = re.compile(rb"ElementDataFile([^\r\n]*)", re.IGNORECASE)
_NRRD = re.compile(rb"^data ?file:([^\r\n]*)", re.MULTILINE | re.IGNORECASE)
_META_END = re.compile(rb"^ElementDataFile[ \t]*=[ \t]*(?i:LOCAL)[ \t]*\r?$", re.MULTILINE)
_NRRD_END = re.compile(rb"\r?\n\r?\n")
_SIGNS = b' \t\r\v\f\0=:"'


def check_stays_in_folder(path: Path) -> None:
    """Refuse a MetaImage or NRRD header that takes its values from outside of its folder.

    ITK would read any file of the machine as pixels.

    Errors: UnsupportedFormatError.
    """
    for name in names_of_values(path):
        for form in (PurePosixPath(name), PureWindowsPath(name)):
            if form.is_absolute() or form.drive or ".." in form.parts:
                raise UnsupportedFormatError(
                    "its header takes the values from a file outside of its folder",
                    path=path,
                    remedy="keep header and values together, and name the values without a folder",
                )


def names_of_values(path: Path) -> list[str]:
    """The files that a MetaImage or NRRD header takes its values from; none where they follow it.

    Errors: UnsupportedFormatError for a header whose end is nowhere to be seen.
    """
    with path.open("rb") as file:
        start = file.read(_START)
        if start.startswith(b"NRRD"):
            pattern, end = _NRRD, _NRRD_END
        elif b"NDims" in start or b"ObjectType" in start:
            pattern, end = _META, _META_END
        else:
            return []
        header = start + (b"" if end.search(start) else file.read(_LONGEST_HEADER))
        more = bool(file.read(1))
    over = end.search(header)
    if over is None and more and len(header) > _LONGEST_HEADER:
        raise UnsupportedFormatError("its header has no end", path=path)
    header, names, listed = header[: over.start()] if over else header, [], False
    for found in pattern.finditer(header):
        names.append(found[1].strip(_SIGNS))
        if names[-1].upper().startswith(b"LIST") and not listed:  # the lines that follow are files, one each
            names += header[found.end() :].splitlines()
            listed = True
    return [name.strip(_SIGNS).decode("utf-8", "surrogateescape") for name in names]

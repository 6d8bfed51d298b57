"""Errors a user meets: each says which file, what was found and what to do."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

_REMEDY = "\n  What to do: "
# How torch tells, in the process that trains, of an error in a process that loads: a new error of the same type, with
# one argument, which is this line and the traceback as text.
_RELAYED = re.compile(r"Caught \w+ in .+\.\nOriginal Traceback")


class SonoDistillError(Exception):
    """Base of every error raised for bad input; the command line prints it without a traceback and exits with 2.

    Args:
        message: what was found, in one sentence.
        path: the file or folder concerned, if there is one.
        remedy: what the user can do about it.

    One that torch relays from a data loader's worker says what it said there, without the traceback.
    """

    def __init__(self, message: str, *, path: str | Path | None = None, remedy: str | None = None) -> None:
        if path is None and remedy is None and _RELAYED.match(message):
            message, path, remedy = _relayed(message, f"{type(self).__module__}.{type(self).__qualname__}: ")
        self.message = message
        self.path = None if path is None else Path(path)
        self.remedy = remedy
        super().__init__(str(self))

    def __str__(self) -> str:
        text = self.message if self.path is None else f"{self.path}: {self.message}"
        return text if self.remedy is None else f"{text}{_REMEDY}{self.remedy}"

    def __reduce__(self) -> tuple[Any, ...]:
        # Pickled without the constructor, whose arguments differ from one kind of error to another.
        return _rebuilt, (type(self), self.args), vars(self)


def _rebuilt(kind: type[SonoDistillError], args: tuple[Any, ...]) -> SonoDistillError:
    return kind.__new__(kind, *args)


def _relayed(text: str, name: str) -> tuple[str, str | None, str | None]:
    """Message, path and remedy of an error from the traceback that ends with it.

    Put together again they read as they did, also where a colon of the message was taken for the end of a path.
    """
    said, _, remedy = text.rpartition(f"\n{name}")[2].rstrip("\n").partition(_REMEDY)
    path, colon, message = said.partition(": ")
    if colon and str(Path(path)) == path and len(Path(path).parts) > 1:
        return message, path, remedy or None
    return said, None, remedy or None


class UnreadableFileError(SonoDistillError):
    """The file cannot be decoded: empty, truncated, or not what its name says."""


class UnsupportedFormatError(SonoDistillError):
    """The file is sound, but of a kind that is not read (unknown suffix, transfer syntax, SOP class, photometric)."""


class EmptyInputError(SonoDistillError):
    """A folder, file list or data set holds no frame that can be used."""


class DatasetError(SonoDistillError):
    """A data set folder is missing, or does not have the layout it should have."""


class WeightsError(SonoDistillError):
    """A weights file is not the one asked for: wrong architecture, wrong checksum, unsafe format."""


class HubUnreachableError(SonoDistillError):
    """A model hub was asked for weights and could not be reached."""


class BundleConfigError(SonoDistillError):
    """A bundle configuration names a setting that does not exist, or one that cannot work."""

"""Errors a user meets: each says which file, what was found and what to do."""

from __future__ import annotations

from pathlib import Path


class SonoDistillError(Exception):
    """Base of every error raised for bad input; the command line prints it without a traceback and exits with 2.

    Args:
        message: what was found, in one sentence.
        path: the file or folder concerned, if there is one.
        remedy: what the user can do about it.
    """

    def __init__(self, message: str, *, path: str | Path | None = None, remedy: str | None = None) -> None:
        self.message = message
        self.path = None if path is None else Path(path)
        self.remedy = remedy
        super().__init__(str(self))

    def __str__(self) -> str:
        text = self.message if self.path is None else f"{self.path}: {self.message}"
        return text if self.remedy is None else f"{text}\n  What to do: {self.remedy}"


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

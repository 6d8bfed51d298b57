"""Errors of files of labels."""

from __future__ import annotations

from UltrasoundSegmentLib.errors import SegmentError


class ExchangeError(SegmentError):
    """Labels cannot be written or read as asked."""


class NotLabelsError(ExchangeError):
    """A file holds no labels of the form that was expected, or malformed ones."""


class OtherImageError(ExchangeError):
    """Labels are of another image than the cine that is open."""


class MissingPackageError(ExchangeError):
    """A Python package is needed that is not installed."""

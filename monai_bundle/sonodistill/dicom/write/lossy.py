"""What an image lost by compression, which stays true of everything that is derived from it."""

from __future__ import annotations

from typing import Any

from pydicom.dataset import Dataset

from sonodistill.dicom.source import Source

# Lossy Image Compression Method (0028,2114), PS3.3 C.7.6.1.1.5.1, by the transfer syntaxes that lose.
_METHODS = {
    "1.2.840.10008.1.2.4.50": "ISO_10918_1",
    "1.2.840.10008.1.2.4.51": "ISO_10918_1",
    "1.2.840.10008.1.2.4.81": "ISO_14495_1",
    "1.2.840.10008.1.2.4.91": "ISO_15444_1",
    "1.2.840.10008.1.2.4.203": "ISO_15444_15",
    "1.2.840.10008.1.2.4.100": "ISO_13818_2",
    "1.2.840.10008.1.2.4.101": "ISO_13818_2",
    "1.2.840.10008.1.2.4.102": "ISO_14496_10",
    "1.2.840.10008.1.2.4.103": "ISO_14496_10",
    "1.2.840.10008.1.2.4.104": "ISO_14496_10",
    "1.2.840.10008.1.2.4.105": "ISO_14496_10",
    "1.2.840.10008.1.2.4.106": "ISO_14496_10",
    "1.2.840.10008.1.2.4.107": "ISO_23008_2",
    "1.2.840.10008.1.2.4.108": "ISO_23008_2",
}
_FRAGMENTABLE = ".1"
"""At the end of the syntax of a video that may be stored in several fragments."""
_KEYWORDS = ("LossyImageCompression", "LossyImageCompressionRatio", "LossyImageCompressionMethod")


_MAY_KEEP_ALL = frozenset({"1.2.840.10008.1.2.4.81", "1.2.840.10008.1.2.4.91", "1.2.840.10008.1.2.4.203"})


def copy_lossy(ds: Dataset, source: Source) -> None:
    """Say of an image whether its source was ever compressed with loss, and how (PS3.3 C.7.6.1.1.5).

    Where the source does not tell, its transfer syntax and its size do; the ratio of a source that was decoded since
    stays unknown.
    """
    stated = {keyword: _value(source, keyword) for keyword in _KEYWORDS}
    for keyword in _KEYWORDS:
        ds.pop(keyword, None)
    syntax = str(source.ds.file_meta.TransferSyntaxUID).removesuffix(_FRAGMENTABLE)
    kept = stated["LossyImageCompression"] == "00" and syntax in _MAY_KEEP_ALL
    if kept or (syntax not in _METHODS and stated["LossyImageCompression"] != "01"):
        ds.LossyImageCompression = "00"
        return
    ds.LossyImageCompression = "01"
    ds.LossyImageCompressionMethod = stated["LossyImageCompressionMethod"] or _METHODS.get(syntax, "ISO_10918_1")
    ratio = stated["LossyImageCompressionRatio"] or (_ratio(source) if syntax in _METHODS else None)
    if ratio:
        ds.LossyImageCompressionRatio = ratio


def _ratio(source: Source) -> float | None:
    """Size of the decoded frames to that of the file, in place of that of the pixel data: it is approximate anyway."""
    try:
        samples, bits = int(source.ds.get("SamplesPerPixel", 1)), int(source.ds.BitsAllocated)
        decoded = source.frames * source.rows * source.columns * samples * bits / 8
        return round(max(decoded / source.path.stat().st_size, 0.01), 2)
    except (OSError, TypeError, ValueError, OverflowError, AttributeError, ZeroDivisionError):
        return None


def _value(source: Source, keyword: str) -> Any:
    try:
        return source.ds.get(keyword)
    except Exception:  # noqa: BLE001 - a number that is none; pydicom raises whatever it provokes
        return None

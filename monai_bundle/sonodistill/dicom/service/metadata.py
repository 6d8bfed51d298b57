"""DICOM JSON (PS3.18 annex F) of an instance back to the data set it was made from, or not at all."""

from __future__ import annotations

import base64
import json
from typing import Any

from pydicom import config
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import UID
from pydicom.valuerep import VR, DSfloat

from sonodistill.dicom.multipart import MultipartError, media_type, parts
from sonodistill.dicom.web import Client
from sonodistill.errors import SonoDistillError

_MAX_DEPTH = 16
_MAX_BULK = 4 << 20
_MAX_BULK_ITEMS = 64
_BINARY = frozenset({"OB", "OD", "OF", "OL", "OV", "OW", "UN"})
_ONE_VALUE = frozenset({VR.LT, VR.ST, VR.UR, VR.UT})
_DS_LENGTH = 16
# Of the service, not of the instance: where it is kept, and in which syntaxes it is given.
_OF_THE_SERVICE = ("00080054", "00080056", "00081190", "00083002")


class MetadataError(SonoDistillError):
    """The metadata cannot be made into a data set that has everything; nothing of them is in the message."""


def dataset_of(item: dict[str, Any], client: Client, syntax: str) -> Dataset:
    """The data set of a metadata item, without pixel data, with the file meta information of ``syntax``.

    Bulk data, such as the tables of a palette, are fetched, from the service alone. Text is in Unicode where it is not
    ASCII.

    Errors: MetadataError, also where bulk data cannot be had; WebError.
    """
    kept = {tag: element for tag, element in item.items() if "0008" <= tag[:4] < "7FE0" and tag not in _OF_THE_SERVICE}
    resolved = _resolved(kept, client, [_MAX_BULK_ITEMS], 0)
    try:
        # Values are not validated: pydicom's messages quote them, and they may be the patient's.
        with config.disable_value_validation():
            ds = Dataset.from_json(resolved)
            for element in ds.iterall():
                if element.VR in _ONE_VALUE and isinstance(element.value, list):
                    (element.value,) = element.value or [None]
                elif element.VR == VR.DS and element.value is not None:
                    element.value = _short(element.value)
        if not json.dumps(resolved, ensure_ascii=False).isascii():
            _say_unicode(ds)
        ds.file_meta = FileMetaDataset()
        ds.file_meta.TransferSyntaxUID = UID(syntax)
        ds.file_meta.MediaStorageSOPClassUID = ds.SOPClassUID
        ds.file_meta.MediaStorageSOPInstanceUID = ds.SOPInstanceUID
    except Exception as error:  # noqa: BLE001 - whatever malformed values provoke
        raise MetadataError(f"the metadata are malformed ({type(error).__name__})") from None
    return ds


def _resolved(item: Any, client: Client, left: list[int], depth: int) -> dict[str, Any]:
    """The item with its bulk data in it."""
    if not isinstance(item, dict) or depth > _MAX_DEPTH:
        raise MetadataError("the metadata are malformed, or nested too deep")
    found = {}
    for tag, element in item.items():
        if not isinstance(element, dict) or "vr" not in element:
            raise MetadataError("an attribute has no VR")
        if "BulkDataURI" in element:
            element = {"vr": element["vr"], "InlineBinary": _bulk(element, client, left)}
        elif element["vr"] == "SQ":
            items = element.get("Value") or []
            element = {"vr": "SQ", "Value": [_resolved(each, client, left, depth + 1) for each in items]}
        found[tag] = element
    return found


def _bulk(element: dict[str, Any], client: Client, left: list[int]) -> str:
    left[0] -= 1
    target = client.resolve(str(element["BulkDataURI"]))
    if element["vr"] not in _BINARY or left[0] < 0 or target is None:
        raise MetadataError("bulk data of a kind, in a number or at a place that is not fetched")
    accept = 'multipart/related; type="application/octet-stream"'
    with client.get(target, accept=accept) as response:
        kind, parameters = media_type(response.headers.get("Content-Type"))
        if response.status != 200:
            raise MetadataError("bulk data are announced, but not given")
        if kind != "multipart/related":
            return base64.b64encode(response.body(_MAX_BULK)).decode()
        held = bytearray()
        try:
            for _, body in parts(response.read, parameters.get("boundary", ""), max_parts=1):
                for piece in body:
                    held += piece
                    if len(held) > _MAX_BULK:
                        raise MetadataError("bulk data are too large")
        except MultipartError:
            raise MetadataError("bulk data are malformed") from None
    return base64.b64encode(held).decode()


def _short(value: Any) -> Any:
    """Decimal strings in the 16 characters they have (PS3.5 6.2)."""
    if isinstance(value, DSfloat):
        return value if len(str(value)) <= _DS_LENGTH else DSfloat(float(value), auto_format=True)
    return [_short(each) for each in value] if isinstance(value, list) or hasattr(value, "__iter__") else value


def _say_unicode(ds: Dataset) -> None:
    ds.SpecificCharacterSet = "ISO_IR 192"
    for element in ds:
        if element.VR == VR.SQ:
            for item in element.value:
                if "SpecificCharacterSet" in item:
                    _say_unicode(item)

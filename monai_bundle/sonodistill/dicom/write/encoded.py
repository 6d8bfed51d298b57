"""Many items that are alike but for a few values, as Explicit VR Little Endian (PS3.5 7.1.2), encoded and read in bulk.

A report of some hundred structures has a hundred thousand elements. As objects of pydicom each costs a tenth of a
millisecond to make, write and read back; here an item is made and encoded once, and filled in again and again.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from pydicom import config
from pydicom.charset import convert_encodings, default_encoding, encode_string
from pydicom.dataelem import DataElement, RawDataElement
from pydicom.dataset import Dataset
from pydicom.filebase import DicomBytesIO
from pydicom.filewriter import write_data_element
from pydicom.tag import BaseTag, Tag
from pydicom.valuerep import EXPLICIT_VR_LENGTH_32

_HEAD = struct.Struct("<HH2sH")  # group, element, VR, length of the short form
_ITEM = struct.Struct("<HHL")
_LONG = struct.Struct("<L")
_ITEM_TAG, _ITEM_END, _SEQUENCE_END = (0xFFFE, 0xE000), (0xFFFE, 0xE00D), (0xFFFE, 0xE0DD)
_UNDEFINED = 0xFFFFFFFF
_LONG_VRS = frozenset(str(vr).encode() for vr in EXPLICIT_VR_LENGTH_32)

Item = dict[int, Any]
"""Values by tag, as bytes; of a sequence, its items."""


def encodings_of(ds: Dataset) -> list[str]:
    """Python's names of an object's character sets (0008,0005)."""
    return convert_encodings(ds.get("SpecificCharacterSet") or default_encoding)


@config.disable_value_validation()
def elements(ds: Dataset, encodings: list[str]) -> bytes:
    """The elements of a dataset."""
    return b"".join(_element(element, encodings) for element in ds)


def item(body: bytes) -> bytes:
    """An item of a sequence, from its elements."""
    return _ITEM.pack(*_ITEM_TAG, len(body)) + body


def sequence(keyword: str, items: Iterable[bytes]) -> bytes:
    """An element of VR SQ, from its encoded items."""
    return _sequence(Tag(keyword), b"".join(items))


def set_sequence(ds: Dataset, keyword: str, items: Iterable[bytes]) -> None:
    """Give an object a sequence whose items are encoded already; pydicom parses them when they are looked at.

    Afterwards pydicom writes what it has not parsed as it is, and guesses no VR that depends on other elements.

    Args:
        ds: a whole object, not an item; its character set is the one that the items are encoded in.
    """
    value = b"".join(items)
    ds[Tag(keyword)] = RawDataElement(Tag(keyword), "SQ", len(value), value, 0, False, True)
    known = encodings_of(ds) if ds.get("SpecificCharacterSet") else default_encoding
    ds.set_original_encoding(False, True, known)


def text(value: str, encodings: list[str]) -> bytes:
    """Of a text VR."""
    return padded(encode_string(value, encodings))


def number(value: object) -> bytes:
    """Of DS, IS and CS."""
    return padded(str(value).encode("ascii"))


def padded(value: bytes, by: bytes = b" ") -> bytes:
    """To even length; a UID is padded by a zero byte."""
    return value + by if len(value) % 2 else value


class Mould:
    """An item some of whose values change.

    Args:
        ds: the item; in the place of a value that changes it has one that it has nowhere else under that keyword.
        slots: (keyword, that value) of each value that changes, by a name for it.
        encodings: see ``encodings_of``.

    Errors: ValueError for a slot that is not in the item, or more than once.
    """

    def __init__(self, ds: Dataset, slots: Mapping[str, tuple[str, Any]], encodings: list[str]) -> None:
        found: list[str] = []
        self._parts = _parts(ds, slots, encodings, found)
        if sorted(found) != sorted(slots):
            raise ValueError(f"slots {sorted(slots)}, of which {sorted(found)} are in the item")

    def filled(self, values: Mapping[str, bytes]) -> bytes:
        """The item, encoded, with a value for each slot, of even length."""
        return item(_filled(self._parts, values))


# Of a part: bytes that never change, or the tag and VR of an element with the name of its slot or its items' parts.
_Part = bytes | tuple[BaseTag, bytes, str | list[Any]]


def _parts(ds: Dataset, slots: Mapping[str, tuple[str, Any]], encodings: list[str], found: list[str]) -> list[_Part]:
    parts: list[_Part] = []
    for element in ds:
        names = [name for name, (keyword, value) in slots.items() if _is(element, keyword, value)]
        found += names
        part: _Part
        if names:
            part = element.tag, str(element.VR).encode(), names[0]
        elif element.VR == "SQ":
            items = [_parts(each, slots, encodings, found) for each in element.value]
            changes = any(not isinstance(each, bytes) for parts_of_item in items for each in parts_of_item)
            part = (element.tag, b"SQ", items) if changes else _element(element, encodings)
        else:
            part = _element(element, encodings)
        if isinstance(part, bytes) and parts and isinstance(parts[-1], bytes):
            parts[-1] += part
        else:
            parts.append(part)
    return parts


def _is(element: DataElement, keyword: str, value: Any) -> bool:
    return bool(element.keyword == keyword and element.VR != "SQ" and element.value == value)


def _filled(parts: Sequence[_Part], values: Mapping[str, bytes]) -> bytes:
    made = []
    for part in parts:
        if isinstance(part, bytes):
            made.append(part)
            continue
        tag, vr, what = part
        if isinstance(what, list):
            made.append(_sequence(tag, b"".join([item(_filled(each, values)) for each in what])))
            continue
        value = values[what]
        if vr in _LONG_VRS:
            made.append(_HEAD.pack(tag.group, tag.element, vr, 0) + _LONG.pack(len(value)))
        else:
            made.append(_HEAD.pack(tag.group, tag.element, vr, len(value)))
        made.append(value)
    return b"".join(made)


def _sequence(tag: BaseTag, value: bytes) -> bytes:
    return _HEAD.pack(tag.group, tag.element, b"SQ", 0) + _LONG.pack(len(value)) + value


def _element(element: DataElement, encodings: list[str]) -> bytes:
    file = DicomBytesIO()
    file.is_little_endian, file.is_implicit_VR = True, False
    write_data_element(file, element, encodings)
    return file.getvalue()


def items_of(ds: Dataset, keyword: str | BaseTag) -> list[Item]:
    """The items of a sequence of an object; what pydicom has not parsed yet it need not.

    Errors: KeyError where there is none; ValueError for what is not encoded so.
    """
    element = ds.get_item(keyword)
    if isinstance(element, RawDataElement):
        if element.is_implicit_VR or not element.is_little_endian:
            raise ValueError("a sequence is not in Explicit VR Little Endian")
        return items(element.value or b"")
    encodings = encodings_of(ds)
    return items(b"".join(item(elements(each, encodings)) for each in ds[keyword].value))


def in_first(found: Item, *keywords: str) -> Any:
    """The value at the end of a path through the first items of sequences, or None where it breaks off."""
    value: Any = found
    for keyword in keywords:
        within = value[0] if isinstance(value, list) and value else value
        value = within.get(Tag(keyword)) if isinstance(within, dict) else None
    return value


def items(value: bytes) -> list[Item]:
    """The items of a sequence, with all that is in them.

    Args:
        value: of the sequence.

    Errors: ValueError for what is not encoded so.
    """
    try:
        found, at = _items(value, 0, len(value))
    except struct.error:
        raise ValueError("a sequence ends within an element") from None
    if at != len(value):
        raise ValueError("a sequence goes on behind its end")
    return found


def _items(data: bytes, at: int, end: int) -> tuple[list[Item], int]:
    """(items, where they end); ``end`` is past the end of a sequence of undefined length."""
    found: list[Item] = []
    while at < end:
        group, number_, length = _ITEM.unpack_from(data, at)
        at += 8
        if (group, number_) == _SEQUENCE_END:
            return found, at
        if (group, number_) != _ITEM_TAG:
            raise ValueError("there is no item where one should be")
        made, at = _read(data, at, end if length == _UNDEFINED else at + length)
        found.append(made)
    return found, at


def _read(data: bytes, at: int, end: int) -> tuple[Item, int]:
    """(the elements of an item, where it ends)."""
    found: Item = {}
    if end > len(data):
        raise ValueError("an item goes on behind its sequence")
    unpack, long_vrs = _HEAD.unpack_from, _LONG_VRS
    while at < end:
        group, number_, vr, length = unpack(data, at)
        at += 8
        if group == 0xFFFE:
            if (group, number_) != _ITEM_END:
                raise ValueError("there is no element where one should be")
            return found, at
        if vr in long_vrs:
            (length,) = _LONG.unpack_from(data, at)
            at += 4
        if vr == b"SQ":
            stop = end if length == _UNDEFINED else at + length
            if stop > end:
                raise ValueError("a sequence goes on behind its item")
            found[group << 16 | number_], at = _items(data, at, stop)
        else:
            if at + length > end:
                raise ValueError("an element goes on behind its item")
            found[group << 16 | number_] = data[at : at + length]
            at += length
    return found, at


def flat(found: Iterable[Item]) -> Iterator[Item]:
    """Items, and all items within them."""
    waiting = list(found)
    while waiting:
        each = waiting.pop()
        yield each
        for value in each.values():
            if isinstance(value, list):
                waiting.extend(value)

"""Bounded, safe reading of the text that comes with data sets: XML without entities, JSON, CSV, sheets of XLSX."""

from __future__ import annotations

import csv
import json
import re
import zipfile
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

from sonodistill.errors import DatasetError

XML_LIMIT = 4 << 20
JSON_LIMIT = 64 << 20
CSV_LIMIT = 256 << 20
SHEET_LIMIT = 32 << 20
_SHEETS = "{http://schemas.openxmlformats.org/spreadsheetml/2006/main}"
_FORBIDDEN = re.compile(rb"<!\s*(DOCTYPE|ENTITY)", re.IGNORECASE)


def read_xml(path: Path) -> ElementTree.Element:
    """The root element of an XML file. Document types and entities, through which XML attacks come, are refused.

    Errors: DatasetError for those, for files over 4 MiB, for encodings other than UTF-8 and for damaged ones.
    """
    return _parse_xml(_read(path, XML_LIMIT), path)


def read_json(path: Path) -> Any:
    """Errors: DatasetError for files over 64 MiB and for what is no JSON."""
    try:
        return json.loads(_read(path, JSON_LIMIT).decode("utf-8-sig"))
    except (ValueError, RecursionError) as error:
        raise DatasetError(f"is no sound JSON ({error})", path=path, remedy="copy it again from its source") from error


def read_rows(path: Path, *, delimiter: str = ",", encoding: str = "utf-8-sig") -> list[dict[str, str]]:
    """The rows of a CSV file by column name; names and values are stripped, short rows are filled with "".

    Errors: DatasetError for files over 256 MiB and for what cannot be decoded.
    """
    if path.stat().st_size > CSV_LIMIT:
        raise DatasetError(f"is larger than {CSV_LIMIT >> 20} MiB", path=path)
    try:
        with path.open(newline="", encoding=encoding) as file:
            reader = csv.reader(file, delimiter=delimiter)
            names = [name.strip() for name in next(reader, [])]
            return [
                {name: row[i].strip() if i < len(row) else "" for i, name in enumerate(names)} for row in reader if row
            ]
    except (UnicodeDecodeError, csv.Error) as error:
        raise DatasetError(f"is no sound CSV ({error})", path=path, remedy="copy it again from its source") from error


def read_lines(path: Path) -> list[str]:
    """The lines of a text file that are not blank, stripped.

    Errors: DatasetError for files over 64 MiB and for what is no UTF-8.
    """
    try:
        text = _read(path, JSON_LIMIT).decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise DatasetError("is no text in UTF-8", path=path) from error
    return [line.strip() for line in text.splitlines() if line.strip()]


def read_sheet(path: Path) -> list[dict[str, str]]:
    """The rows of the first sheet of an Excel workbook by column name, as ``read_rows`` gives them.

    Errors: DatasetError for what is no workbook, or holds more than 32 MiB of text.
    """
    try:
        with zipfile.ZipFile(path) as book:
            members = {info.filename: info for info in book.infolist()}
            texts = []
            if "xl/sharedStrings.xml" in members:
                strings = _parse_xml(_member(book, members["xl/sharedStrings.xml"], path), path)
                texts = ["".join(t.text or "" for t in item.iter(f"{_SHEETS}t")) for item in strings]
            sheet = _parse_xml(_member(book, members["xl/worksheets/sheet1.xml"], path), path)
        rows = [
            {_column(cell): _value(cell, texts) for cell in row.iter(f"{_SHEETS}c")}
            for row in sheet.iter(f"{_SHEETS}row")
        ]
    except (zipfile.BadZipFile, KeyError, IndexError, ValueError, OSError) as error:
        raise DatasetError(f"is no sound workbook ({error})", path=path, remedy="copy it again") from error
    names = rows[0] if rows else {}
    return [{name: row.get(column, "") for column, name in names.items()} for row in rows[1:] if any(row.values())]


def _member(book: zipfile.ZipFile, info: zipfile.ZipInfo, path: Path) -> bytes:
    # The size an archive states for a member can be a lie: read no more than the limit, whatever it says.
    with book.open(info) as file:
        data = file.read(SHEET_LIMIT + 1)
    if len(data) > SHEET_LIMIT:
        raise DatasetError(f"holds more than {SHEET_LIMIT >> 20} MiB of text", path=path)
    return data


def _column(cell: ElementTree.Element) -> str:
    return cell.attrib["r"].rstrip("0123456789")


def _value(cell: ElementTree.Element, texts: list[str]) -> str:
    if cell.get("t") == "inlineStr":
        return "".join(t.text or "" for t in cell.iter(f"{_SHEETS}t")).strip()
    value = cell.findtext(f"{_SHEETS}v") or ""
    return (texts[int(value)] if cell.get("t") == "s" else value).strip()


def _parse_xml(data: bytes, path: Path) -> ElementTree.Element:
    # In another encoding the declarations that are refused would pass unseen.
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise DatasetError("is no XML in UTF-8", path=path) from error
    encoding = re.match(r"""\s*<\?xml[^>]*encoding\s*=\s*["']([^"']+)""", text)
    if encoding and encoding[1].lower() not in ("utf-8", "us-ascii", "ascii"):
        raise DatasetError(f"declares the encoding {encoding[1]}; UTF-8 is read", path=path)
    if "\0" in text or _FORBIDDEN.search(data):
        raise DatasetError("holds a document type or an entity, which are not read", path=path)
    try:
        return ElementTree.fromstring(data)  # noqa: S314 - no document type, no entity, bounded size
    except ElementTree.ParseError as error:
        raise DatasetError(f"is no sound XML ({error})", path=path, remedy="copy it again from its source") from error


def _read(path: Path, limit: int) -> bytes:
    if path.stat().st_size > limit:
        raise DatasetError(f"is larger than {limit >> 20} MiB", path=path)
    return path.read_bytes()

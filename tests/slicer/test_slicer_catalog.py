"""The entry in Slicer's catalog: its schema, its name, and what the index checks of a repository."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

jsonschema = pytest.importorskip("jsonschema", reason="needs jsonschema: pip install jsonschema")

ROOT = Path(__file__).resolve().parents[2]
EXTENSION = ROOT / "slicer_extension"
ENTRY = EXTENSION / "SonoDistill.json"

SCHEMA = {
    "$schema": "http://json-schema.org/draft-07/schema#",
    "type": "object",
    "additionalProperties": False,
    "required": ["$schema", "category", "scm_url"],
    "properties": {
        "$schema": {
            "type": "string",
            "format": "uri",
            "pattern": r"slicer-extension-catalog-entry-schema-v1\.0\.2\.json#?$",
        },
        "build_dependencies": {"type": "array", "items": {"type": "string"}, "uniqueItems": True},
        "build_subdirectory": {"type": "string"},
        "category": {"type": "string", "minLength": 1},
        "dicom_support_rule": {"type": "string"},
        "enabled": {"type": "boolean"},
        "scm_revision": {"type": "string"},
        "scm_type": {"type": "string", "enum": ["git", "local"]},
        "scm_url": {"type": "string", "format": "uri", "minLength": 1},
        "tier": {"type": "integer", "minimum": 1, "maximum": 5},
    },
}
"""What version 1.0.2 of the schema of catalog entries asks for."""


def entry() -> dict[str, object]:
    return json.loads(ENTRY.read_text(encoding="utf-8"))


def test_the_entry_follows_the_schema() -> None:
    jsonschema.validate(entry(), SCHEMA)


@pytest.mark.parametrize(
    "wrong", [{"category": ""}, {"tier": 6}, {"description": "no longer here"}, {"scm_type": "svn"}, {"enabled": "yes"}]
)
def test_the_schema_refuses_what_the_index_refuses(wrong: dict[str, object]) -> None:
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate(entry() | wrong, SCHEMA)


def test_the_category_is_the_one_of_ultrasound() -> None:
    assert entry()["category"] == "Ultrasound"


def test_the_file_is_named_like_the_extension_and_has_unix_line_ends() -> None:
    data = ENTRY.read_bytes()
    assert b"\r" not in data
    assert data.endswith(b"}\n")
    for listing in (ROOT / "CMakeLists.txt", EXTENSION / "CMakeLists.txt"):
        assert re.search(r"^project\((\w+)", listing.read_text(encoding="utf-8"), re.M)[1] == ENTRY.stem
    assert not ENTRY.stem.startswith("Slicer")


def test_what_the_listing_shows_is_in_the_repository() -> None:
    text = (EXTENSION / "CMakeLists.txt").read_text(encoding="utf-8")
    assert "EXTENSION_CATEGORY" not in text
    shown = re.findall(r"slicer_extension/((?:Screenshots/)?[\w-]+\.png)", text)
    assert "SonoDistill.png" in shown
    assert any(name.startswith("Screenshots/") for name in shown)
    assert [name for name in shown if not (EXTENSION / name).is_file()] == []
    assert (ROOT / "LICENSE").is_file()


def test_the_readme_is_a_tutorial_with_pictures_that_are_there() -> None:
    text = (EXTENSION / "README.md").read_text(encoding="utf-8")
    pictures = re.findall(r"!\[[^\]]+\]\(([^)]+)\)", text)
    assert len(pictures) >= 3
    assert [p for p in pictures if not (EXTENSION / p).is_file()] == []
    for heading in ("Installation", "Tutorial", "Privacy", "Limits"):
        assert re.search(rf"^## .*{heading}", text, re.M | re.I)


def test_icons_have_the_size_that_slicer_shows() -> None:
    for name in ("SonoDistill.png", "UltrasoundSegment/Resources/Icons/UltrasoundSegment.png"):
        data = (EXTENSION / name).read_bytes()
        assert data[:8] == b"\x89PNG\r\n\x1a\n"
        assert (int.from_bytes(data[16:20], "big"), int.from_bytes(data[20:24], "big")) == (128, 128)
    for path in (EXTENSION / "Screenshots").glob("*.png"):
        assert path.stat().st_size < 200_000

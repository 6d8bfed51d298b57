"""What arrives from outside: refused entry by entry, never followed out of its folder, never larger than a limit."""

from __future__ import annotations

import json
import random
import stat
import struct
import zipfile
import zlib
from collections.abc import Iterator
from pathlib import Path

import exchange_case as case
import numpy as np
import pytest
from PIL import Image

from sonodistill.annotate.errors import AnnotationError, InvalidLabelError, TooLargeError
from sonodistill.annotate.exchange import FORMS, archive, export, import_labels, records, unpack
from sonodistill.annotate.ids import FrameId
from sonodistill.annotate.model import MODEL


@pytest.fixture(scope="module")
def catalogue(tmp_path_factory) -> Iterator:
    found = case.studies(tmp_path_factory.mktemp("exchange"))
    yield found
    found.close()


@pytest.fixture
def empty(tmp_path) -> Iterator:
    (tmp_path / "empty").mkdir()
    found = case.store(tmp_path / "empty")
    yield found
    found.close()


@pytest.fixture
def labels(catalogue, tmp_path) -> Iterator:
    found = case.store(tmp_path)
    for index in range(3):
        case.say(catalogue, found, case.named(catalogue, "ybr"), index, seed=index)
    yield found
    found.close()


def changed(folder: Path, **changes: object) -> Path:
    """The index of a PNG folder with other values in its second entry."""
    said = json.loads((folder / "labels.json").read_text())
    said["frames"][1].update(changes)
    (folder / "labels.json").write_text(json.dumps(said))
    return folder


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"mask": "../secret.png"}, "no file of its folder"),
        ({"mask": "/etc/hostname"}, "no file of its folder"),
        ({"mask": "masks/link.png"}, "no file of its folder"),
        ({"mask": "masks\\..\\secret.png"}, "no way that can be followed"),
        ({"mask": "masks"}, "no file of its folder"),
        ({"mask": "masks/\0.png"}, "no way that can be followed"),
        ({"mask": ["masks"]}, "no way that can be followed"),
        ({"mask": "masks/colour.png"}, "colours or 16 bits"),
        ({"mask": "masks/small.png"}, "the frame (240, 320)"),
        ({"mask": "masks/high.png"}, "names no label"),
        ({"mask": "masks/text.png"}, "cannot be decoded"),
        ({"mask": "masks/bomb.png"}, "states 9000 rows"),
        ({"mask": None}, "neither a mask nor a class"),
        ({"frame": "../../etc/passwd"}, "is no id"),
        ({"frame": "nobody-0123456789.f00001"}, "no image"),
        ({"frame": "FIRST.f00999"}, "no frame 999"),
        ({"frame": "FIRST"}, "which frame of the item"),
        ({"frame": 7}, "names no frame"),
        ({"status": "perfect"}, "no status"),
        ({"status": ["accepted"]}, "no status"),
        ({"status": "skipped"}, "skipped frame has no mask"),
        ({"annotator": "../x"}, "no name of a annotator"),
        ({"annotator": MODEL}, "nobody is named"),
        ({"classification": "hopeless"}, "no class"),
        ({"classification": {"a": 1}}, "no text"),
        ({"confidence": 3}, "no number"),
        ({"confidence": True}, "no number"),
        ({"model": "x" * 1000}, "no text"),
        ({"model": "a\nb"}, "no name of a model"),
        ({"info": {"a": "b" * (1 << 20)}}, "info"),
        ({"info": []}, None),
    ],
)
def test_an_entry_that_cannot_be_used_is_refused_and_the_others_go_on(
    catalogue, labels, empty, changes, reason, tmp_path
):
    folder = tmp_path / "out"
    export(catalogue, labels, folder, "png")
    cine = case.named(catalogue, "ybr")
    Image.new("L", (320, 240)).save(tmp_path / "secret.png")
    (folder / "masks" / "link.png").symlink_to(tmp_path / "secret.png")
    Image.new("RGB", (320, 240)).save(folder / "masks" / "colour.png")
    Image.new("L", (32, 24)).save(folder / "masks" / "small.png")
    Image.new("L", (320, 240), 200).save(folder / "masks" / "high.png")
    (folder / "masks" / "text.png").write_text("<html>502 Bad Gateway</html>")
    (folder / "masks" / "bomb.png").write_bytes(png_bomb(9000, 9000))
    given = {key: value.replace("FIRST", cine.id) if key == "frame" and isinstance(value, str) else value
             for key, value in changes.items()}  # fmt: skip
    report = import_labels(catalogue, empty, changed(folder, **given), annotator=None)
    others = [str(FrameId(cine.id, index)) for index in (0, 2)]
    if reason is None:
        assert (len(report.written), report.skipped) == (3, [])
    else:
        assert (report.written, len(report.skipped)) == (others, 1)
        assert reason in report.skipped[0].reason


def png_bomb(rows: int, columns: int) -> bytes:
    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", columns, rows, 8, 0, 0, 0, 0)
    pixels = zlib.compress(bytes(1000))
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", pixels) + chunk(b"IEND", b"")


@pytest.mark.parametrize(
    "text",
    [
        "",
        "[]",
        "null",
        '{"format": "sonodistill-labels"}',
        "[" * 100_000,
        '{"format": "sonodistill-labels", "form": "png", "version": 1, "labels": "lesion", "frames": []}',
        '{"format": "sonodistill-labels", "form": "png", "version": 1, "labels": ["a", "a"], "frames": []}',
        '{"format": "sonodistill-labels", "form": "png", "version": 2, "labels": ["a"], "frames": []}',
        '{"format": "sonodistill-labels", "form": "png", "version": 1, "labels": ["a"], "frames": {}}',
        '{"format": "sonodistill-labels", "form": "png", "version": 1, "labels": ["a"], "frames": [NaN]}',
    ],
)
def test_an_index_that_is_none(catalogue, empty, text, tmp_path):
    (tmp_path / "labels.json").write_text(text)
    report = import_labels(catalogue, empty, tmp_path / "labels.json", annotator="bob")
    assert report.written == []
    assert [skipped.what for skipped in report.skipped] == ["labels.json"]


def test_limits(catalogue, labels, empty, monkeypatch, tmp_path):
    export(catalogue, labels, tmp_path / "out", "png")
    monkeypatch.setattr(records, "MAX_ENTRIES", 2)
    assert "2 are the most" in import_labels(catalogue, empty, tmp_path / "out", annotator="bob").skipped[0].reason
    monkeypatch.setattr(records, "MAX_JSON", 100)
    assert "more than 0 MB" in import_labels(catalogue, empty, tmp_path / "out", annotator="bob").skipped[0].reason


def test_what_holds_no_labels_at_all(catalogue, empty, tmp_path):
    (tmp_path / "notes").mkdir()
    (tmp_path / "notes" / "readme.txt").write_text("hello")
    for source in (tmp_path / "notes", tmp_path / "notes" / "readme.txt", tmp_path / "nowhere"):
        with pytest.raises(InvalidLabelError):
            import_labels(catalogue, empty, source, annotator="bob")
    with pytest.raises(AnnotationError, match="no name of a annotator"):
        import_labels(catalogue, empty, tmp_path / "notes", annotator="a b")


def zipped(path: Path, *entries: tuple[str, bytes], mode: int = 0) -> Path:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as to:
        for name, data in entries:
            info = zipfile.ZipInfo(name)
            info.compress_type = zipfile.ZIP_DEFLATED
            info.external_attr = mode << 16
            to.writestr(info, data)
    return path


@pytest.mark.parametrize("name", ["../x.json", "/tmp/x.json", "a/../../x.json", "C:\\x.json", "a\\..\\x", "a\x01b"])
def test_a_zip_file_that_leaves_its_folder(catalogue, empty, name, tmp_path):
    path = zipped(tmp_path / "labels.zip", (name, b"{}"))
    before = set(tmp_path.rglob("*"))
    with pytest.raises(InvalidLabelError, match="leaves its folder"):
        import_labels(catalogue, empty, path, annotator="bob")
    assert set(tmp_path.rglob("*")) == before


def test_links_floods_and_garbage_in_a_zip_file(monkeypatch, tmp_path):
    def refused(path: Path, error: type[Exception], reason: str) -> None:
        (tmp_path / "to").mkdir(exist_ok=True)
        with pytest.raises(error, match=reason):
            unpack(path, tmp_path / "to")

    refused(zipped(tmp_path / "link.zip", ("a", b"/etc/passwd"), mode=stat.S_IFLNK | 0o777), InvalidLabelError, "link")
    (tmp_path / "garbage.zip").write_bytes(b"PK\x03\x04" + bytes(100))
    refused(tmp_path / "garbage.zip", InvalidLabelError, "cannot be unpacked")
    monkeypatch.setattr(archive, "MAX_BYTES", 1 << 20)
    refused(zipped(tmp_path / "bomb.zip", ("a", bytes(2 << 20))), TooLargeError, "more than")
    # One that lies about its size gives no more than it says.
    data = zipped(tmp_path / "liar.zip", ("liar", bytes(2 << 20))).read_bytes()
    (tmp_path / "liar.zip").write_bytes(data.replace(struct.pack("<I", 2 << 20), struct.pack("<I", 1000)))
    refused(tmp_path / "liar.zip", InvalidLabelError, "cannot be unpacked")
    assert sum(path.stat().st_size for path in (tmp_path / "to").iterdir()) <= 1000


def test_a_zip_file_packed_in_a_rare_way(tmp_path):
    for kind in (zipfile.ZIP_LZMA, zipfile.ZIP_BZIP2):
        with zipfile.ZipFile(tmp_path / "rare.zip", "w", kind) as file:
            file.writestr("labels.json", b"x" * 1000)
        whole = bytearray((tmp_path / "rare.zip").read_bytes())
        whole[45:60] = bytes(15)
        (tmp_path / "rare.zip").write_bytes(whole)
        with pytest.raises(InvalidLabelError):
            unpack(tmp_path / "rare.zip", tmp_path)


def test_json_of_very_many_parts_is_refused_before_it_is_parsed(monkeypatch, tmp_path):
    monkeypatch.setattr(records, "_MAX_PARTS", 100)
    (tmp_path / "a.json").write_text('{"a": [' + ",".join(["[]"] * 100) + "]}")
    with pytest.raises(TooLargeError):
        records.read_json(tmp_path / "a.json")


@pytest.mark.parametrize("form", FORMS)
def test_damaged_files_of_every_form_never_crash(catalogue, labels, empty, form, tmp_path):
    export(catalogue, labels, tmp_path / "out", form)
    original = {path: path.read_bytes() for path in (tmp_path / "out").rglob("*") if path.is_file()}
    draw = random.Random(11)
    before = {row.frame: labels.get(row.frame).mask for row in labels.rows()}
    for _ in range(25):
        for path, data in original.items():
            damaged = bytearray(data)
            for _ in range(draw.choice([0, 1, 20])):
                damaged[draw.randrange(len(damaged))] = draw.randrange(256)
            path.write_bytes(damaged[: draw.choice([len(damaged), draw.randrange(len(damaged))])])
        try:
            report = import_labels(catalogue, empty, tmp_path / "out", annotator="bob", replace=True)
        except AnnotationError:
            continue
        assert all(reason for _, reason in report.skipped)
    for row in empty.rows():  # whatever got through is a label
        assert row.frame in before or row.frame.item == case.named(catalogue, "ybr").id
        mask = empty.get(row.frame, row.annotator).mask
        assert mask is None or (mask.shape == (240, 320) and int(np.max(mask)) <= 2)

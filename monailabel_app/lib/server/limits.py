"""What a client may send: how many bytes, how fast, how deep, and under which names."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any
from uuid import UUID

from fastapi import Request
from starlette.datastructures import FormData, UploadFile
from starlette.requests import ClientDisconnect

from lib.server.errors import Refused
from sonodistill.annotate.errors import InvalidIdError, TooLargeError

_IMAGES = re.compile(r"PUT /datastore/(image)?|PUT /session/?|POST /infer/[^/]+|POST /sonodistill/import")
_LABELS = re.compile(r"PUT /datastore/label|PUT /sonodistill/label/[^/]+|POST /sonodistill/click/[^/]+")
_SUFFIX = re.compile(
    r"(\.(nii|seg\.nrrd|nrrd|mha|png|jpe?g|bmp|tiff?|dcm|dicom|mp4|avi|mov|mkv|webm|wmv|bin|zip|json)(\.gz)?)$", re.I
)
_CHUNK = 1 << 20


@dataclass(frozen=True, slots=True)
class Limits:
    """Of one request, in bytes and seconds, and of how many there may be.

    Attributes:
        image_bytes: of a request that uploads an image, or labels to import.
        label_bytes: of one that uploads a label or a mask.
        other_bytes: of any other.
        path_bytes, query_bytes: of the URL.
        idle_seconds: without a byte of a body that was promised.
        body_seconds: for a whole body, and one more for each ``bytes_per_second`` that came.
        uploads: with large bodies at a time.
        waiting: for the answer of one model at a time.
        parts: fields, and files, of a form.
        field_bytes: of one field of a form.
        depth, values: of JSON.
        sessions, session_bytes: of MONAI Label, together.
        failures: wrong tokens of one client in a minute.
    """

    image_bytes: int = 512 << 20
    label_bytes: int = 64 << 20
    other_bytes: int = 1 << 20
    path_bytes: int = 2 << 10
    query_bytes: int = 8 << 10
    idle_seconds: float = 20.0
    body_seconds: float = 30.0
    bytes_per_second: int = 64 << 10
    uploads: int = 8
    waiting: int = 5
    parts: int = 16
    field_bytes: int = 1 << 20
    depth: int = 16
    values: int = 100_000
    sessions: int = 32
    session_bytes: int = 2 << 30
    failures: int = 10

    def body(self, method: str, path: str) -> int:
        """The largest body of a request."""
        line = f"{method} {path}"
        if _IMAGES.fullmatch(line):
            return self.image_bytes
        return self.label_bytes if _LABELS.fullmatch(line) else self.other_bytes


LIMITS = Limits()


def parse_json(text: str | bytes, limits: Limits = LIMITS) -> dict[str, Any]:
    """An object of JSON; nothing is an empty one. Errors: Refused with 400."""
    if not text:
        return {}
    _count(text.encode("utf-8", "surrogatepass") if isinstance(text, str) else text, limits)
    try:
        value = json.loads(text, parse_constant=_no_number)
    except (ValueError, RecursionError):
        raise _no_json() from None
    if value is None:
        return {}
    if not isinstance(value, dict):
        raise Refused(400, "InvalidJson", "an object of JSON is needed, in braces")
    _measure(value, limits)
    return value


def _no_number(text: str) -> float:
    raise ValueError(text)


def _no_json() -> Refused:
    return Refused(400, "InvalidJson", "the text is no JSON", "send an object of JSON in UTF-8")


def _count(text: bytes, limits: Limits) -> None:
    """Before anything is made of it: what is large to parse would keep everybody waiting."""
    if sum(map(text.count, (b",", b"[", b"{"))) > limits.values:
        raise _too_much(limits)


def _measure(value: Any, limits: Limits) -> None:
    level, depth = [value], 0
    while level:
        depth += 1
        if depth > limits.depth:
            raise _too_much(limits)
        inner: list[Any] = []
        for one in level:
            if isinstance(one, dict):
                inner += [*one, *one.values()]
            elif isinstance(one, list):
                inner += one
            elif isinstance(one, str) and not _is_text(one):
                raise _no_json()
        level = inner


def _is_text(text: str) -> bool:
    """Half a surrogate pair cannot be written again, and whoever lists it would fail."""
    return text.isascii() or not any("\ud800" <= one <= "\udfff" for one in text)


def _too_much(limits: Limits) -> Refused:
    return Refused(400, "InvalidJson", f"JSON of at most {limits.depth} levels and {limits.values} values")


async def json_body(request: Request) -> dict[str, Any]:
    """The body of a request as an object of JSON; a dependency of routes. Errors: Refused."""
    kind = request.headers.get("content-type", "application/json").partition(";")[0].strip().lower()
    # A page of another site can send forms and plain text without being asked first, but no JSON.
    body = await request.body()
    if body and kind != "application/json":
        raise Refused(415, "InvalidType", "the body has to be application/json")
    return parse_json(body)


async def form_body(request: Request) -> FormData:
    """The parts of a multipart request, few and bounded; a dependency of routes. Errors: Refused."""
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if kind not in ("multipart/form-data", "application/x-www-form-urlencoded"):
        raise Refused(415, "InvalidType", "the body has to be multipart/form-data")
    limits = LIMITS
    try:
        return await request.form(max_files=limits.parts, max_fields=limits.parts, max_part_size=limits.field_bytes)
    except (Refused, ClientDisconnect):
        raise
    except Exception as error:  # noqa: BLE001 - parsers raise what they like
        text = str(getattr(error, "detail", "")) or "it is damaged"
        raise Refused(400, "InvalidForm", f"the form cannot be read: {text[:200]}") from None


def field(form: FormData, name: str, default: str = "") -> str:
    """A field of text. Errors: Refused when it is there twice, or is a file."""
    values = form.getlist(name)
    if not values:
        return default
    if len(values) > 1 or not isinstance(values[0], str):
        raise Refused(422, "InvalidForm", f"{name!r} has to be there once, as text")
    return values[0]


def upload(form: FormData, name: str) -> UploadFile:
    """The one file of that name. Errors: Refused."""
    values = form.getlist(name)
    if len(values) != 1 or not isinstance(values[0], UploadFile):
        raise Refused(422, "InvalidForm", f"one file has to be there as {name!r}")
    return values[0]


def has(form: FormData, name: str) -> bool:
    return any(isinstance(value, UploadFile) for value in form.getlist(name))


def suffix_of(name: str | None, default: str) -> str:
    """All that is taken of a client's name of a file: a suffix that we know. Errors: Refused with 415."""
    if not name:
        return default
    match = _SUFFIX.search(Path(name.replace("\\", "/")).name)
    if match is None:
        raise Refused(
            415, "InvalidType", "no suffix of a kind that is read", "name it .nii.gz, .nrrd, .png, .dcm or .mp4, say"
        )
    return match.group(1).lower()


@contextmanager
def saved(file: UploadFile, default: str, folder: Path | None = None) -> Iterator[Path]:
    """The upload as a file of our own name in a folder of its own, until the end of the block."""
    suffix = suffix_of(file.filename, default)
    with TemporaryDirectory(prefix="sonodistill-", dir=folder, ignore_cleanup_errors=True) as private:
        path = Path(private) / f"upload{suffix}"
        write(file, path)
        yield path


def write(file: UploadFile, path: Path, limit: int | None = None) -> int:
    """Copy an upload; its size in bytes. Errors: TooLargeError; Refused when it is empty."""
    size = 0
    with path.open("xb") as target:
        while chunk := file.file.read(_CHUNK):
            size += len(chunk)
            if limit is not None and size > limit:
                raise TooLargeError(f"more than {limit} bytes", remedy="send less")
            target.write(chunk)
    if size == 0:
        raise Refused(400, "EmptyUpload", "the file is empty")
    return size


def session_id(text: str) -> str:
    """The id of a session as MONAI Label writes it. Errors: InvalidIdError for anything but a UUID."""
    try:
        if len(text) == 36 and str(UUID(text)) == text.lower():
            return text.lower()
    except ValueError:
        pass
    raise InvalidIdError("that is no id of a session", remedy="take the one that PUT /session/ answered")

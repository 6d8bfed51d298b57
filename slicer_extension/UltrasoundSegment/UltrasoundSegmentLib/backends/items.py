"""Items of our server and the labels of their frames: fetched as arrays, and sent."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from UltrasoundSegmentLib.backends import infer, png, volume_files
from UltrasoundSegmentLib.backends.client import LARGE, Client
from UltrasoundSegmentLib.backends.model import BackendError, Cancel
from UltrasoundSegmentLib.backends.our_headers import header, header_number
from UltrasoundSegmentLib.backends.refusal import RefusedError

MOST_FRAMES, MOST_BYTES = 20_000, 1 << 30
_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,127}")
_STATUSES = ("predicted", "propagated", "edited", "accepted", "skipped")


@dataclass(frozen=True, eq=False)
class Label:
    """The best label of a frame: mask (H, W) uint8 or None, and how it came to be."""

    mask: NDArray[np.uint8] | None
    status: str
    annotator: str = ""
    confidence: float | None = None


@dataclass(frozen=True, eq=False)
class Fetched:
    """An item of the server.

    Attributes:
        id, name: of the item.
        frames: (H, W) uint8 each.
        spacing_mm: (row, column), None where the server does not say it.
        names: of the server's label numbers 1, 2, ...
        labels: by frame.
    """

    id: str
    name: str
    frames: list[NDArray[np.uint8]]
    spacing_mm: tuple[float, float] | None
    names: tuple[str, ...]
    labels: dict[int, Label] = field(default_factory=dict)


def item_id(given: Any) -> str:
    """An id as part of a path. Errors: BackendError."""
    if not isinstance(given, str) or not _ID.fullmatch(given) or ".." in given:
        raise BackendError(f"The server names an item {str(given)[:60]!r}, which is no id.")
    return given


def names_of(client: Client, cancel: Cancel) -> tuple[str, ...]:
    """The server's labels, in the order of their numbers."""
    said = client.json("GET", "/sonodistill/items", cancel, query={"limit": 1})
    names = said.get("labels") if isinstance(said, dict) else None
    if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
        raise BackendError("The server does not tell its labels: is it a SonoDistill server?")
    return tuple(names[:255])


def fetch(client: Client, item: str, cancel: Cancel, told: Callable[[int, int], None]) -> Fetched:
    """An item with its frames and labels. ``told``: (frames so far, frames), in the thread of this call."""
    item = item_id(item)
    about = client.json("GET", f"/sonodistill/items/{item}", cancel)
    rows = about.get("frames") if isinstance(about, dict) else None
    if not isinstance(rows, list) or not 0 < len(rows) <= MOST_FRAMES:
        raise BackendError(f"The server's item {item} has no frames, or more than {MOST_FRAMES}.")
    names = names_of(client, cancel)
    frames, spacing = _frames(client, item, str(about.get("kind", "")), len(rows), cancel, told)
    labels = {}
    for index, row in enumerate(rows):
        status = row.get("status") if isinstance(row, dict) else None
        if status in _STATUSES:
            shape = (frames[index].shape[0], frames[index].shape[1])
            labels[index] = label_of(client, f"{item}.f{index:05d}", shape, cancel)
    return Fetched(item, str(about.get("name", item))[:200], frames, spacing, names, labels)


def label_of(client: Client, frame: str, shape: tuple[int, int], cancel: Cancel) -> Label:
    """The best label of a frame, or an empty one where it has lost it meanwhile."""
    try:
        answer = client.request("GET", f"/sonodistill/label/{frame}", cancel)
    except RefusedError as error:
        if error.status == 404:
            return Label(None, "")
        raise
    status = header(answer, "Status")
    if status not in _STATUSES:
        return Label(None, "")
    mask = png.decode(answer.content, shape) if answer.content else None
    return Label(mask, status, header(answer, "Annotator"), header_number(answer, "Confidence"))


def send(client: Client, frame: str, mask: NDArray[np.uint8] | None, status: str, model: str, cancel: Cancel) -> Any:
    """Save a person's label; the row that the server keeps. ``mask`` None: skipped."""
    named = {"annotator": client.annotator} if client.annotator else {}
    path = f"/sonodistill/label/{frame}"
    if mask is None:
        return client.json("POST", f"{path}/status", cancel, body={"status": status, **named})
    query = {"status": status, **named, **({"model": model} if model else {})}
    return client.json("PUT", path, cancel, query=query, data=png.encode(mask), content_type="image/png")


def _frames(
    client: Client, item: str, kind: str, count: int, cancel: Cancel, told: Callable[[int, int], None]
) -> tuple[list[NDArray[np.uint8]], tuple[float, float] | None]:
    """A cine comes as one NRRD, which has the size of its pixels; anything else frame by frame."""
    if count > 1 and kind != "volume":
        try:
            answer = client.request(
                "GET",
                "/datastore/image",
                cancel,
                query={"image": item},
                most=LARGE,
                received=lambda got, whole: told(int(count * got / whole), count) if whole else None,
            )
        except RefusedError as error:
            if error.status not in (400, 413):
                raise
        else:
            volume = volume_files.read(answer.content)
            if volume.voxels.shape[0] != count or volume.voxels.ndim != 3:
                raise BackendError(f"The server's {item} has {volume.voxels.shape[0]} frames, not {count}.")
            sides = np.linalg.norm(volume.ijk_to_ras[:3, :2], axis=0)
            spacing = (float(sides[1]), float(sides[0])) if volume.millimetres else None
            return list(infer.numbers(volume.voxels)), spacing
    frames: list[NDArray[np.uint8]] = []
    size = 0
    for index in range(count):
        path = f"/sonodistill/frame/{item}.f{index:05d}.png"
        frames.append(png.decode(client.request("GET", path, cancel, most=png.MOST_PIXELS).content))
        size += frames[-1].nbytes
        if size > MOST_BYTES:
            raise BackendError(f"The server's {item} has more than {MOST_BYTES >> 20} MiB of frames.")
        told(index + 1, count)
    return frames, None

"""Names of what is annotated: items (files) and their frames. They are checked before they touch a file or a table."""

from __future__ import annotations

import hashlib
import re
from dataclasses import dataclass
from pathlib import PurePath

from sonodistill.annotate.errors import InvalidIdError

MAX_FRAMES = 1_000_000
_ITEM = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]*(?:\.[A-Za-z0-9_-]+)*")
_FRAME = re.compile(r"(?P<item>.+)\.f(?P<index>[0-9]{5,6})")
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.@-]{0,63}")
_LONGEST = 128


@dataclass(frozen=True, slots=True, order=True)
class FrameId:
    """One frame of one item; as text ``<item>.f00012``, which is what clients send where they mean an image.

    Attributes:
        item: id of the item.
        index: of the frame, counted from 0.
    """

    item: str
    index: int

    def __str__(self) -> str:
        return f"{self.item}.f{self.index:05d}"


def check_item_id(text: str) -> str:
    """The id itself.

    Errors: InvalidIdError for anything but letters, digits, ``_``, ``-`` and single dots between them, 128 at most.
    """
    if not isinstance(text, str) or len(text) > _LONGEST or not _ITEM.fullmatch(text):
        raise InvalidIdError(f"{str(text)[:60]!r} is no id", remedy="take ids from the list of images")
    return text


def check_name(text: str, what: str = "annotator") -> str:
    """A name of an annotator, tag, strategy or session: itself; InvalidIdError otherwise."""
    if not isinstance(text, str) or not _NAME.fullmatch(text):
        raise InvalidIdError(
            f"{str(text)[:60]!r} is no name of a {what}", remedy="letters, digits and ._@-, 64 at most"
        )
    return text


def parse(text: str) -> tuple[str, int | None]:
    """(item, index) of the id of a frame; (item, None) of the id of an item.

    Errors: InvalidIdError.
    """
    check_item_id(text)
    match = _FRAME.fullmatch(text)
    if match is None:
        return text, None
    return check_item_id(match["item"]), int(match["index"])


def item_id(relative: str | PurePath) -> str:
    """The id of a file by its path relative to the studies: readable, unique, and the same wherever the studies lie."""
    posix = PurePath(relative).as_posix()
    stem = re.sub(r"[^A-Za-z0-9]+", "-", posix.rsplit(".", 1)[0] if "." in PurePath(posix).name else posix)
    digest = hashlib.sha256(posix.encode("utf-8", "surrogateescape")).hexdigest()[:10]
    return f"{stem.strip('-')[-80:].strip('-') or 'item'}-{digest}"

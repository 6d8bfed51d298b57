"""Frames of any files as a stream of MONAI data items, one frame at a time."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from torch.utils.data import IterableDataset

from sonodistill.errors import EmptyInputError, SonoDistillError
from sonodistill.frames import find_files, read

logger = logging.getLogger(__name__)


class FrameStream(IterableDataset[dict[str, Any]]):
    """Every frame under ``data`` as ``{"image": Frame}`` after ``transform``; a cine is never held whole.

    A file that cannot be read is logged and kept in ``skipped``, and the stream goes on.

    Args:
        data: a file, a folder, or a list of them.
        transform: applied to each item.
    """

    def __init__(self, data: str | Path | list[str | Path], transform: Any = None) -> None:
        sources = data if isinstance(data, list) else [data]
        self.data = [file for source in sources for file in find_files(Path(source))]
        self.transform = transform
        self.skipped: list[tuple[Path, str]] = []

    def __iter__(self) -> Iterator[dict[str, Any]]:
        self.skipped.clear()
        yielded = 0
        for file in self.data:
            try:
                for frame in read(file):
                    item: dict[str, Any] = {"image": frame}
                    yield self.transform(item) if self.transform else item
                    yielded += 1
            except SonoDistillError as error:
                self.skipped.append((file, error.message))
                logger.warning("skipped %s", error)
        if not yielded:
            raise EmptyInputError(
                f"none of {len(self.data)} files gave a frame", remedy="see `sonodistill frames info` on one of them"
            )

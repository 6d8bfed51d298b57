"""What is told of images and labels without reading any of them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import suppress
from typing import Any

from lib.notes import Notes
from lib.saved import FINAL, tag_of
from sonodistill.annotate.errors import UnknownIdError
from sonodistill.annotate.ids import FrameId
from sonodistill.annotate.labels.store import LabelStore
from sonodistill.annotate.model import Catalogue, Item, LabelRow

OWN_FILE = (".nii.gz", ".nii", ".nrrd", ".mha")
"""Volumes that clients get as they are."""


class Listing:
    """Of a catalogue, a store of labels and notes."""

    def __init__(self, catalogue: Catalogue, labels: LabelStore, notes: Notes) -> None:
        self._catalogue, self._labels, self._notes = catalogue, labels, notes
        self._status: tuple[object, dict[str, Any]] = (None, {})

    def status(self) -> dict[str, Any]:
        """See ``FrameDatastore.status``; counted anew when a label or the list of items changed."""
        items = self._catalogue.items()
        key = (self._labels.revision(), len(items), items[-1].id if items else "")
        if self._status[0] != key:
            tags: dict[str, set[str]] = {}
            for row in self._labels.rows():
                tags.setdefault(tag_of(row), set()).add(row.frame.item)
            known = {item.id for item in items}
            counts = {tag: len(found & known) for tag, found in tags.items() if tag}
            status = {
                "total": len(items),
                "completed": counts.get(FINAL, 0),
                "label_tags": counts,
                "frames": {**self._labels.counts(), "total": sum(item.frames for item in items)},
            }
            self._status = (key, status)
        return self._status[1]

    def objects(self) -> dict[str, Any]:
        """Image id -> {"image", "labels"}."""
        rows: dict[str, list[LabelRow]] = {}
        for row in self._labels.rows():
            rows.setdefault(row.frame.item, []).append(row)
        notes, found = self._notes.all(), {}
        for item in self._catalogue.items():
            own = rows.get(item.id, [])
            statuses: dict[int, str] = {}
            frames: dict[FrameId, list[LabelRow]] = {}
            for row in own:
                statuses.setdefault(row.frame.index, row.status.value)  # the best of a frame comes first
                frames.setdefault(row.frame, []).append(row)
            info = {**self.image_info(item.id, item, None, statuses), **notes.get(item.id, {})}
            planar = is_planar(item)
            found[item.id] = {"image": {"ext": extension(item), "info": info}, "labels": self._tags(own, planar=planar)}
            for frame, those in {} if planar else frames.items():
                info = {**self.image_info(str(frame), item, frame.index, statuses), **notes.get(str(frame), {})}
                found[str(frame)] = {"image": {"ext": ".png", "info": info}, "labels": self._tags(those, planar=True)}
        return found

    def image_info(self, id: str, item: Item, frame: int | None, statuses: Mapping[int, str]) -> dict[str, Any]:
        """Of an item, or of one frame of it; the viewer opens the next sample by its study.

        Args:
            id: that it is told under.
            item: it is of.
            frame: its index, or None.
            statuses: index -> the best status of a frame, where it has any.
        """
        info: dict[str, Any] = {
            "name": f"{id}{extension(item) if frame is None else '.png'}",
            "ts": 0,
            "title": item.name,
            "kind": item.kind,
            "frames": item.frames if frame is None else 1,
            "statuses": {at: status for at, status in statuses.items() if frame in (None, at)},
        }
        if frame is not None:
            info.update(item=item.id, frame=frame)
        if item.series:
            info["SeriesInstanceUID"] = item.series
        study = getattr(self._catalogue, "study", None)
        with suppress(UnknownIdError):  # gone from the server since it was listed
            if study is not None:
                info["StudyInstanceUID"] = study(item)
        return info

    def label_info(self, rows: Mapping[int, LabelRow], *, planar: bool) -> dict[str, Any]:
        """Of labels by position: the latest, and which frames have one; {} of none."""
        if not rows:
            return {}
        latest = max(rows.values(), key=lambda row: row.revision)
        info: dict[str, Any] = {
            **latest.info,
            "ts": int(latest.time),
            "status": latest.status.value,
            "annotator": latest.annotator,
            "client_id": latest.annotator,
            "model": latest.model,
            "revision": latest.revision,
            "params": {"label_names": {name: at for at, name in enumerate(self._labels.names, 1)}},
        }
        for key in ("classification", "confidence"):
            if getattr(latest, key) not in ("", None):
                info[key] = getattr(latest, key)
        return info if planar else {**info, "frames": sorted(rows)}

    def _tags(self, rows: Sequence[LabelRow], *, planar: bool) -> dict[str, Any]:
        tags: dict[str, dict[int, LabelRow]] = {}
        for row in rows:
            if tag := tag_of(row):
                tags.setdefault(tag, {}).setdefault(row.frame.index, row)
        suffix = ".png" if planar else ".nrrd"
        return {tag: {"ext": suffix, "info": self.label_info(those, planar=planar)} for tag, those in tags.items()}


def is_planar(item: Item) -> bool:
    """Whether clients get one image (H, W) of it."""
    return not item.is_cine and item.kind != "volume"


def extension(item: Item) -> str:
    """Of the file that clients get of an item."""
    if item.kind != "volume":
        return ".png" if is_planar(item) else ".nrrd"
    return next((suffix for suffix in OWN_FILE if item.name.lower().endswith(suffix)), ".nrrd")

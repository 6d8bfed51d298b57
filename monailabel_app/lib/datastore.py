"""MONAI Label's datastore over a catalogue of frames and a store of labels."""

from __future__ import annotations

import io
import json
import logging
import re
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from monailabel.interfaces.datastore import Datastore, DefaultLabelTag

from lib.files import read_labels, write_masks, write_nrrd
from lib.listing import OWN_FILE, Listing
from lib.notes import Notes, check_upload
from lib.saved import AUTHOR_KEYS, Saved, of_tag, tag_of
from lib.shelf import Shelf
from lib.tagged import Tagged
from lib.targets import Images, Target
from sonodistill.annotate.errors import ConflictError, TooLargeError, UnknownIdError
from sonodistill.annotate.labels.mask import checked, to_png
from sonodistill.annotate.model import FINAL, Item
from sonodistill.annotate.workbench import Workbench

logger = logging.getLogger(__name__)

_LISTED = 2000
"""Accepted frames that are listed as files for training; there are better ways to have more."""


class FrameDatastore(Datastore):
    """Items as images, frames as images too, labels frame by frame.

    An image id is that of an item or a frame, a Series Instance UID, or the name under which an image was uploaded. The
    tag "final" is what people accepted, "original" what models say, any other tag the work of the annotator of that
    name. What clients download of a frame or still is a gray PNG; of a cine an NRRD with the frames slowest; of a
    volume the file itself.

    Args:
        workbench: catalogue and labels.

    Attributes:
        images: finds what ids mean.
        shelf: keeps what clients download.
    """

    def __init__(self, workbench: Workbench) -> None:
        work = workbench.settings.work
        self.workbench, self.catalogue, self.labels = workbench, workbench.catalogue, workbench.labels
        self.notes = Notes(work / "notes.sqlite")
        self.images = Images(self.catalogue, self.notes)
        self.shelf = Shelf(work / "downloads")
        self.listing = Listing(self.catalogue, self.labels, self.notes)
        self.tagged = Tagged(self.labels)
        self._name, self._description = "SonoDistill", "Ultrasound frame by frame"

    def close(self) -> None:
        self.images.close()
        self.notes.close()

    def name(self) -> str:
        return self._name

    def set_name(self, name: str) -> None:
        self._name = name[:200]

    def description(self) -> str:
        return self._description

    def set_description(self, description: str) -> None:
        self._description = description[:1000]

    # Images

    def list_images(self) -> list[str]:
        return [item.id for item in self.catalogue.items()]

    def get_image(self, image_id: str, params: Any = None) -> io.BytesIO:  # noqa: ARG002
        return io.BytesIO(Path(self.get_image_uri(image_id)).read_bytes())

    def get_image_uri(self, image_id: str) -> str:
        """Path of what a client downloads. Errors: InvalidIdError, UnknownIdError, TooLargeError."""
        target = self.images.find(image_id)
        if target.volume is not None and target.volume.name.lower().endswith(OWN_FILE):
            return str(target.volume)
        key = f"image {target.frames[0]} {len(target)} {_stamp(target.items[0])}"
        if target.planar:
            return str(self.shelf.file(key, f"{image_id}.png", lambda path: _write_png(path, target)))

        def write(path: Path) -> None:
            write_nrrd(path, (frame.image for frame in target.read()), target.shape, target.geometry())

        return str(self.shelf.file(key, f"{image_id}.nrrd", write))

    def get_image_info(self, image_id: str) -> dict[str, Any]:
        """What is known of an image without reading it, and what clients keep with it."""
        target = self.images.find(image_id)
        item = target.items[0]
        statuses = {at: status.value for at, status in sorted(self.labels.status_of(item.id).items())}
        at = target.frames[0].index if target.planar and item.is_cine else None
        return {**self.listing.image_info(target.id, item, at, statuses), **self.notes.of(image_id)}

    def update_image_info(self, image_id: str, info: dict[str, Any]) -> None:
        self.images.find(image_id)
        self.notes.add(image_id, _object(info))

    def get_labeled_images(self, label_tag: str | None = None, labels: list[str] | None = None) -> list[str]:  # noqa: ARG002
        """Items of which a frame at least has a label of the tag, by default one that somebody accepted."""
        tag = label_tag or DefaultLabelTag.FINAL.value
        found = {row.frame.item for row in self.labels.rows() if of_tag(row, tag)}
        return [id for id in self.list_images() if id in found]

    def get_unlabeled_images(self, label_tag: str | None = None, labels: list[str] | None = None) -> list[str]:
        found = set(self.get_labeled_images(label_tag, labels))
        return [id for id in self.list_images() if id not in found]

    def refresh(self) -> None:
        self.catalogue.refresh()

    def add_image(self, image_id: str, image_filename: str, image_info: dict[str, Any]) -> str:
        """Take an upload in; its id. The sender's name for it is an id, too, for the sender goes on with that.

        Errors: InvalidIdError; ConflictError where images cannot be added; those of ``FolderCatalogue.add``.
        """
        path = Path(image_filename)
        if not hasattr(self.catalogue, "add"):
            raise ConflictError("images cannot be added here", remedy="send them to the DICOMweb server")
        name = check_upload(image_id or path.name)
        suffix = re.search(r"(\.nii)?\.[A-Za-z0-9]{1,8}$", path.name)
        item = self.catalogue.add(path, name + (suffix.group() if suffix else ""))
        self.notes.uploaded(name, item.id)
        if image_info:
            self.notes.add(item.id, _object(image_info))
        return item.id

    def remove_image(self, image_id: str) -> None:
        """Remove an upload and the labels of it. Errors: ConflictError for an image of the studies."""
        item = self.images.find(image_id).items[0]
        if not hasattr(self.catalogue, "remove"):
            raise ConflictError("images cannot be removed here", remedy="remove them from the DICOMweb server")
        self.catalogue.remove(item)
        for row in self.labels.rows(item=item.id):
            self.labels.remove(row.frame, row.annotator)

    # Labels

    def get_labels_by_image_id(self, image_id: str) -> dict[str, str]:
        """Tag -> label id, which is the image id."""
        return dict.fromkeys(self.tagged.tags(self.images.find(image_id)), image_id)

    def get_label_by_image_id(self, image_id: str, tag: str) -> str:
        return image_id if self.tagged.rows(self.images.find(image_id), tag) else ""

    def get_label(self, label_id: str, label_tag: str, params: Any = None) -> io.BytesIO:  # noqa: ARG002
        uri = self.get_label_uri(label_id, label_tag)
        if not uri:
            raise UnknownIdError(f"{label_id} has no label of the tag {label_tag}")
        return io.BytesIO(Path(uri).read_bytes())

    def get_label_uri(self, label_id: str, label_tag: str) -> str:
        """Path of the labels of an image as one file in the form of the image; "" where there is none of the tag."""
        target = self.images.find(label_id)
        rows = {at: row for at, row in self.tagged.rows(target, label_tag).items() if row.shape}
        if not rows:
            return ""
        revisions = [row.revision for row in rows.values()]
        key = f"label {label_tag} {revisions} {target.frames[0]} {_stamp(target.items[0])}"
        shape = (1, *target.frame(0).image.shape) if target.planar else target.shape
        if any(row.shape != shape[1:] for row in rows.values()):
            raise ConflictError(f"{label_id} had another size when it was labelled", remedy="label it anew")

        def write(path: Path) -> None:
            masks = {at: self.tagged.mask(row) for at, row in rows.items()}
            write_masks(path, masks, shape, target.geometry)

        return str(self.shelf.file(key, f"{label_id}{'.png' if target.planar else '.nrrd'}", write))

    def get_label_info(self, label_id: str, label_tag: str) -> dict[str, Any]:
        """Who, when and how; {} where there is no label of the tag."""
        target = self.images.find(label_id)
        return self.listing.label_info(self.tagged.rows(target, label_tag), planar=target.planar)

    def save_label(self, image_id: str, label_filename: str, label_tag: str, label_info: dict[str, Any]) -> str:
        """Keep a label; of several frames those that are not empty, had a mask of this tag, or are named.

        Args:
            image_id: of the image that was labelled.
            label_filename: see ``files.read_labels``.
            label_tag: "final" accepts, "original" is a prediction, another is unfinished work of that name.
            label_info: "client_id" is the annotator; "label_info", [{"name", "idx"}], names the numbers; "frames" the
                positions that count whatever they hold; "classification" a class of the frames.

        Errors: UnknownIdError, InvalidIdError; InvalidLabelError, before anything is saved; ConflictError.
        """
        target = self.images.find(image_id)
        tag = label_tag or DefaultLabelTag.FINAL.value
        saved = Saved.of(tag, _object(label_info or {}), self.labels.names)
        shape = (1, *target.frame(0).image.shape) if target.planar else target.shape
        stack = saved.numbered(read_labels(Path(label_filename), shape))
        own = {row.frame: row for row in self.tagged.own(target, saved.annotator)}
        # Nothing is erased but what the client had before it: the masks of this tag.
        before = {frame for frame, row in own.items() if row.shape and tag_of(row) == tag}
        named = saved.frames(len(target))
        wanted = [
            at
            for at, frame in enumerate(target.frames)
            if target.planar or stack[at].any() or frame in before or at in named
        ]
        masks = {at: checked(stack[at], len(self.labels.names), shape[1:]) for at in wanted}
        kept = 0
        for at, mask in masks.items():
            try:
                self.labels.save(target.frames[at], mask, shape=shape[1:], **saved.row(at, own.get(target.frames[at])))
            except ConflictError:  # a prediction of a frame that a person has labelled
                if target.planar:
                    raise
                kept += 1
        logger.info("label of %s saved: %d frames, %d kept as they were", target.items[0].id, len(masks) - kept, kept)
        return image_id

    def remove_label(self, label_id: str, label_tag: str) -> None:
        """Take the labels of a tag back; they stay in the history. Errors: UnknownIdError."""
        rows = self.tagged.all(self.images.find(label_id), label_tag)
        if not rows:
            raise UnknownIdError(f"{label_id} has no label of the tag {label_tag[:60]!r}")
        for row in rows:
            self.labels.remove(row.frame, row.annotator)

    def update_label_info(self, label_id: str, label_tag: str, info: dict[str, Any]) -> None:
        """Keep more with the labels of a tag; nothing else changes. Errors: UnknownIdError, ConflictError."""
        rows = self.tagged.rows(self.images.find(label_id), label_tag).values()
        if not rows:
            raise UnknownIdError(f"{label_id} has no label of the tag {label_tag[:60]!r}")
        more = {key: value for key, value in _object(info).items() if key not in AUTHOR_KEYS}
        for row in rows:
            self.labels.save(
                row.frame,
                self.tagged.mask(row) if row.shape else None,
                status=row.status,
                annotator=row.annotator,
                classification=row.classification,
                model=row.model,
                confidence=row.confidence,
                info={**row.info, **more},
                expect_revision=row.revision,
            )

    # The whole

    def datalist(self) -> list[dict[str, Any]]:
        """Accepted frames as {"image": PNG, "label": PNG}, paths of this machine. Errors: TooLargeError."""
        rows = [row for row in self.labels.rows(status=FINAL) if row.shape]
        if len(rows) > _LISTED:
            raise TooLargeError(
                f"{len(rows)} frames are accepted, more than {_LISTED}", remedy="export them: sonodistill label export"
            )
        final = DefaultLabelTag.FINAL.value
        ids = dict.fromkeys(str(row.frame) for row in rows)
        known = {item.id for item in self.catalogue.items()}
        listed = [id for id in ids if id.rpartition(".f")[0] in known]
        return [{"image": self.get_image_uri(id), "label": self.get_label_uri(id, final)} for id in listed]

    def get_dataset_archive(self, limit_cases: int | None) -> str:  # noqa: ARG002
        """Path of a zip of all accepted frames as PNG, with an index in JSON. Errors: ConflictError without any."""
        from sonodistill.annotate.exchange import export

        if not self.labels.rows(status=FINAL):
            raise ConflictError("no frame is accepted yet", remedy="accept labels first")

        def write(path: Path) -> None:
            folder = path.parent / "export"
            export(self.catalogue, self.labels, folder, "png")
            shutil.make_archive(str(path.with_suffix("")), "zip", folder)
            shutil.rmtree(folder, ignore_errors=True)

        return str(self.shelf.file(f"dataset {self.labels.revision()}", "dataset.zip", write))

    def status(self) -> dict[str, Any]:
        """{"total", "completed", "label_tags"} of items, and "frames": how many have each status, and how many are."""
        return self.listing.status()

    def json(self) -> dict[str, Any]:
        """In the form of ``LocalDatastore``: every item, and every frame of a cine or volume that has a label."""
        return {
            "name": self._name,
            "description": self._description,
            "images_dir": ".",
            "labels_dir": "labels",
            "objects": self.listing.objects(),
        }


def _write_png(path: Path, target: Target) -> None:
    path.write_bytes(to_png(target.frame(0).image))


def _stamp(item: Item) -> str:
    try:
        found = item.path.stat()
    except OSError:  # of a PACS, and not here
        return ""
    return f"{found.st_size} {found.st_mtime_ns}"


def _object(info: object) -> dict[str, Any]:
    """Of JSON; a text of it as older clients send it."""
    if isinstance(info, str):
        info = json.loads(info)
    return dict(info) if isinstance(info, Mapping) else {}

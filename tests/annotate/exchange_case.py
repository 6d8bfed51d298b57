"""Studies of every kind with labels, for the tests of export and import."""

from __future__ import annotations

import shutil
from collections.abc import Collection
from pathlib import Path

import numpy as np
import SimpleITK as sitk
from numpy.typing import NDArray
from PIL import Image
from pydicom import examples

from sonodistill.annotate.ids import FrameId
from sonodistill.annotate.labels.store import LabelStore
from sonodistill.annotate.model import Item, Label, Status
from sonodistill.annotate.studies.catalogue import FolderCatalogue

NAMES = ("lesion", "acoustic shadow")
CLASSES = ("normal", "benign", "malignant")
EVERY = tuple(Status)
SPACING = (0.3, 0.25, 1.5)
"""Of the volume: column, row, slice."""


def studies(folder: Path) -> FolderCatalogue:
    """A cine and a still of DICOM, an image, a TIFF file of two pages of different sizes, and a turned volume."""
    (folder / "studies" / "more").mkdir(parents=True)
    for name in ("ybr_color", "palette_color"):
        shutil.copy(examples.get_path(name), folder / "studies" / f"{name}.dcm")
    rng = np.random.default_rng(5)
    pages = [Image.fromarray(rng.integers(0, 255, size, dtype=np.uint8)) for size in ((40, 50), (60, 30))]
    pages[0].save(folder / "studies" / "more" / "still.png")
    pages[0].save(folder / "studies" / "more" / "pages.tif", save_all=True, append_images=pages[1:])
    volume = sitk.GetImageFromArray(rng.integers(0, 255, (6, 24, 32), dtype=np.uint8))
    volume.SetSpacing(SPACING)
    volume.SetOrigin((10.0, -20.0, 5.0))
    volume.SetDirection((0, 1, 0, -1, 0, 0, 0, 0, 1))
    sitk.WriteImage(volume, str(folder / "studies" / "volume.nii.gz"))
    return FolderCatalogue(folder / "studies", folder / "work")


def named(catalogue: FolderCatalogue, name: str) -> Item:
    return next(item for item in catalogue.items() if name in item.name)


def shape_of(catalogue: FolderCatalogue, item: Item, index: int = 0) -> tuple[int, int]:
    rows, columns = catalogue.frame(FrameId(item.id, index)).image.shape
    return rows, columns


def store(folder: Path, names: Collection[str] = NAMES) -> LabelStore:
    return LabelStore(folder / "labels.sqlite", tuple(names), CLASSES)


def blobs(shape: tuple[int, int], seed: int = 0) -> NDArray[np.uint8]:
    """A ring with a spot in its hole, and two spots of the second label that touch at a corner."""
    rng = np.random.default_rng(seed)
    mask = np.zeros(shape, np.uint8)
    top, left = (int(rng.integers(0, side // 4)) for side in shape)
    mask[top : top + shape[0] // 2, left : left + shape[1] // 2] = 1
    mask[top + 3 : top + 9, left + 3 : left + 9] = 0
    mask[top + 5, left + 5] = 1
    mask[-4:-2, -4:-2] = mask[-2:, -2:] = 2
    return mask


def say(catalogue: FolderCatalogue, labels: LabelStore, item: Item, index: int, seed: int = 0, **more: object) -> None:
    """Alice accepts ``blobs`` on a frame."""
    given: dict = {"status": Status.ACCEPTED, "annotator": "alice", **more}
    labels.save(FrameId(item.id, index), blobs(shape_of(catalogue, item, index), seed), **given)


def told(label: Label | None) -> tuple:
    """What has to survive of a label."""
    assert label is not None
    row = label.row
    return row.status, row.classification, row.model, row.confidence, row.shape, row.pixels


def assert_same(before: LabelStore, after: LabelStore, rows: Collection | None = None) -> None:
    """The labels of one store are those of the other, pixel for pixel."""
    expected = before.rows() if rows is None else rows
    assert [row.frame for row in after.rows()] == [row.frame for row in expected]
    for row in expected:
        ours, theirs = before.get(row.frame, row.annotator), after.get(row.frame)
        assert told(ours) == told(theirs)
        assert (ours.mask is None) == (theirs.mask is None)
        assert ours.mask is None or np.array_equal(ours.mask, theirs.mask)

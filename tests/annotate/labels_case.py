"""The frames and masks of the tests of the label store."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from sonodistill.annotate.ids import FrameId
from sonodistill.annotate.labels.store import LabelStore
from sonodistill.annotate.model import Status

LABELS, CLASSES = ("lesion", "needle"), ("normal", "benign", "malignant")
FRAME, OTHER = FrameId("clip-1", 3), FrameId("clip-1", 4)
ACCEPTED, EDITED, SKIPPED, PROPAGATED, PREDICTED = (
    *(Status.ACCEPTED, Status.EDITED, Status.SKIPPED, Status.PROPAGATED, Status.PREDICTED),
)


def square(value: int = 1, size: int = 20) -> NDArray[np.uint8]:
    mask = np.zeros((40, 60), np.uint8)
    mask[5 : 5 + size, 10 : 10 + size] = value
    return mask


def mask_of(store: LabelStore, frame: FrameId, annotator: str | None = None) -> NDArray[np.uint8]:
    label = store.get(frame, annotator)
    assert label is not None and label.mask is not None
    return label.mask

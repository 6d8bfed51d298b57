"""Inference on many images, frame by frame in this process, on whatever processor there is."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from typing import Any

from monailabel.interfaces.tasks.batch_infer import BatchInferTask

from lib.datastore import FrameDatastore
from lib.infers.segmentation import numbered, numbers_of
from lib.saved import ORIGINAL
from lib.targets import Target
from sonodistill.annotate.errors import AnnotationError, ConflictError
from sonodistill.annotate.model import MODEL, Status
from sonodistill.annotate.workbench import CLASSIFICATION, SEGMENTATION, Workbench
from sonodistill.errors import SonoDistillError
from sonodistill.inference.predictor import Prediction

logger = logging.getLogger(__name__)


class BatchPredictions(BatchInferTask):
    """Predicts every frame of the images and keeps what it says as "original"; what people did stays theirs.

    Args:
        workbench: models and labels.
    """

    def __init__(self, workbench: Workbench) -> None:
        self.workbench = workbench

    def __call__(
        self,
        request: Mapping[str, Any],
        datastore: FrameDatastore,
        infer: Callable[..., Any] | None = None,  # noqa: ARG002
    ) -> dict[str, Any]:
        """Image id -> {"frames", "saved"}, or {"error"}: a batch goes on.

        Errors: AnnotationError for a model that predicts no labels; NotTrainedError.
        """
        name = request.get("model")
        if name not in (SEGMENTATION, CLASSIFICATION):
            raise AnnotationError(
                f"{str(name)[:40]!r} does not label images by itself", remedy=f"ask {SEGMENTATION} or {CLASSIFICATION}"
            )
        if request.get("label_tag", ORIGINAL) != ORIGINAL:
            raise AnnotationError("what a model says is only kept as original", remedy="a person accepts it")
        predictor = self.workbench.predictor(name)
        version = self.workbench.versions[name].current()
        said = f"{name} {version.number if version else ''}".strip()
        numbers = numbers_of(predictor.labels, self.workbench.labels.names) if name == SEGMENTATION else ()
        images, most = self.get_images(request, datastore), request.get("max_batch_size") or 0
        results: dict[str, Any] = {}
        for image in images[:most] if most > 0 else images:
            try:
                target = datastore.images.find(image)
                predictions = predictor(target.read())
                saved = sum(self._save(target, at, one, numbers, said) for at, one in enumerate(predictions))
                results[image] = {"frames": len(target), "saved": saved}
            except SonoDistillError as error:
                logger.warning("%s is left out: %s", str(image)[:128], type(error).__name__)
                results[image] = {"error": error.message}
        return results

    def _save(self, target: Target, at: int, prediction: Prediction, numbers: tuple[int, ...], model: str) -> bool:
        """Whether it was kept: neither what people did nor what was carried on from it is replaced."""
        before = self.workbench.labels.get(target.frames[at], MODEL)
        if before is not None and before.row.status is not Status.PREDICTED:
            return False
        mask, label = (before.mask, before.row.classification) if before is not None else (None, "")
        if numbers:
            mask, confidence = numbered(prediction, numbers)
        else:
            label, confidence = prediction.label, float(prediction.probabilities.max())
        try:
            self.workbench.labels.save(
                target.frames[at],
                mask,
                status=Status.PREDICTED,
                annotator=MODEL,
                shape=(prediction.frame.image.shape[0], prediction.frame.image.shape[1]),
                classification=label,
                model=model,
                confidence=confidence,
            )
        except ConflictError:  # somebody has labelled this frame
            return False
        return True

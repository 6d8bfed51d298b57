"""The encoder's vector of each frame."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from monailabel.interfaces.tasks.infer_v2 import InferType

from lib.infers.task import Clock, FrameTask
from lib.targets import Target
from sonodistill.annotate.errors import TooLargeError
from sonodistill.annotate.workbench import EMBEDDING, Workbench

_MOST = 512


class Embedding(FrameTask):
    """(D,) of a frame, a list of them of a cine or volume, among the parameters of the result."""

    def __init__(self, workbench: Workbench) -> None:
        super().__init__(workbench, EMBEDDING, InferType.OTHERS, {}, "Vectors of ultrasound frames")

    def run(
        self,
        target: Target,
        request: Mapping[str, Any],  # noqa: ARG002
        clock: Clock,
    ) -> tuple[Path | None, dict[str, Any]]:
        if len(target) > _MOST:
            raise TooLargeError(
                f"{target.id} has {len(target)} frames", remedy=f"ask for {_MOST} at a time, by their ids"
            )
        predictor = self.workbench.predictor(EMBEDDING)
        clock.done("pre")
        if target.planar:
            vectors: Any = predictor.predict_one(target.frame(0)).embedding
        else:
            vectors = [one.embedding for one in predictor(target.read())]
        clock.done("infer")
        listed = vectors.tolist() if target.planar else [vector.tolist() for vector in vectors]
        return None, {"embedding": listed, "frames": [*range(len(target))]}

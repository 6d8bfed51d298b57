"""A stock MONAI Label server: stills and volumes are sent to it, it answers a mask or a label map."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from UltrasoundSegmentLib.backends import carry, infer, scores, volume_files
from UltrasoundSegmentLib.backends.client import Client
from UltrasoundSegmentLib.backends.model import Cancel, Model, NotOfferedError, Prompts, Result
from UltrasoundSegmentLib.backends.prompt_points import points_of
from UltrasoundSegmentLib.backends.server import SonoDistillServer, is_ours
from UltrasoundSegmentLib.backends.uploads import Uploads
from UltrasoundSegmentLib.backends.volume_files import Volume
from UltrasoundSegmentLib.backends.volumes import ask, segment_volume

if TYPE_CHECKING:
    from UltrasoundSegmentLib.frames.frame import Frame

_NO_PROPAGATION = "This server has no propagation: use a SonoDistill server, or segment the frames one by one."


def open_server(client: Client, cancel: Cancel) -> SonoDistillServer | StockServer:
    """The backend of whatever answers at an address."""
    return SonoDistillServer(client) if is_ours(client, cancel) else StockServer(client)


class StockServer:
    """Backend of ``/info/``, ``/session/`` and ``/infer/``.

    A frame is sent as an image of one slice, a volume as it is, both as NRRD with their place and no words. They lie
    in a session of the server, which ends by itself.
    """

    def __init__(self, client: Client) -> None:
        self.client, self.name = client, f"MONAI Label, {client.url}"
        self._uploads = Uploads(client)

    def models(self, cancel: Cancel) -> list[Model]:
        return infer.models_of(self.client.json("GET", "/info/", cancel))

    def segment(self, frame: Frame, model: str, cancel: Cancel) -> Result:
        return self._frame(frame, model, {}, cancel)

    def refine(
        self, frame: Frame, prompts: Prompts, previous: NDArray[np.uint8] | None, model: str, cancel: Cancel
    ) -> Result:
        if prompts.box is not None and not (prompts.positive or prompts.scribbles):
            raise NotOfferedError("This server takes points, no boxes: click into the structure.")
        positive, negative = points_of(prompts, frame.image.shape[:2])
        params: dict[str, object] = {"foreground": _deep(positive), "background": _deep(negative)}
        found = self._frame(frame, model, params, cancel)
        mask = carry.with_label(previous, found.mask > 0, prompts.label)
        return Result(mask, found.confidence, found.model, found.info)

    def propagate(
        self,
        frames: Sequence[Frame],  # noqa: ARG002 - as the Protocol says
        mask: NDArray[np.uint8],  # noqa: ARG002
        model: str,  # noqa: ARG002
        cancel: Cancel,  # noqa: ARG002
        on_result: Callable[[int, Result], None],  # noqa: ARG002
    ) -> str:
        raise NotOfferedError(_NO_PROPAGATION)

    def segment_volume(self, volume: Volume, model: str, cancel: Cancel) -> NDArray[np.uint8]:
        """(K, J, I) label numbers on the volume's own grid. Errors: BackendError where the answer lies elsewhere."""
        return segment_volume(self.client, self._uploads, volume, model, cancel)

    def close(self) -> None:
        self.client.close()

    def _frame(self, frame: Frame, model: str, params: dict[str, object], cancel: Cancel) -> Result:
        shape = (frame.image.shape[0], frame.image.shape[1])
        volume = Volume(frame.image[None], frame.ijk_to_ras)
        found = ask(self.client, self._uploads, volume, model, params, cancel)
        if found.image.startswith((b"NRRD", b"\x1f\x8b")):
            mask = infer.numbers(volume_files.on_grid(volume_files.read(found.image), (1, *shape), frame.ijk_to_ras))[0]
        else:
            mask = infer.mask_of(found.image, shape)
        return Result(mask, scores.confidence_of(found.params), model, found.params)


def _deep(points: list[list[float]]) -> list[list[int]]:
    """Points as stock clients send them: whole voxels, the slice last."""
    return [[round(x), round(y), 0] for x, y in points]

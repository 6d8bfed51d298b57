"""A MONAI Label server that runs our app: frames of its own by their id, and frames of this machine that are sent."""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from UltrasoundSegmentLib.backends import carry, infer, png, scores
from UltrasoundSegmentLib.backends.client import SMALL, Client
from UltrasoundSegmentLib.backends.items import item_id
from UltrasoundSegmentLib.backends.model import INTERACTIVE, BackendError, Cancel, Model, Prompts, Result
from UltrasoundSegmentLib.backends.our_headers import header_number
from UltrasoundSegmentLib.backends.prompt_points import points_of
from UltrasoundSegmentLib.backends.refusal import RefusedError
from UltrasoundSegmentLib.backends.server_carry import Carried
from UltrasoundSegmentLib.backends.uploads import Uploads
from UltrasoundSegmentLib.backends.volume_files import Volume
from UltrasoundSegmentLib.backends.volumes import segment_volume

if TYPE_CHECKING:
    from UltrasoundSegmentLib.frames.frame import Frame

_OURS = "/sonodistill/click/{id}"


class SonoDistillServer:
    """Backend of our app's frame, click and propagate routes.

    Frames of a cine that was opened from the server (see ``bind``) are named by their id, and nothing is sent but
    prompts and masks. Others are sent when they are segmented or clicked on, one by one, as gray PNG without names,
    dates or any other words; the server forgets them after the answer, or, for clicks, when their session ends.
    """

    def __init__(self, client: Client) -> None:
        self.client, self.name = client, f"SonoDistill, {client.url}"
        self.item = ""
        self._uploads = Uploads(client)

    def bind(self, item: str) -> None:
        """Frames are of this item of the server from now on; "" for frames of this machine. Errors: BackendError."""
        self.item = item_id(item) if item else ""

    def models(self, cancel: Cancel) -> list[Model]:
        return infer.models_of(self.client.json("GET", "/info/", cancel))

    def segment(self, frame: Frame, model: str, cancel: Cancel) -> Result:
        params = {"result_extension": ".png"}
        shape = frame.image.shape
        if self.item:
            found = infer.infer(self.client, model, params, cancel, image=self.frame_id(frame.index))
        else:
            found = infer.infer(self.client, model, params, cancel, file=("frame.png", png.encode(frame.image)))
        if not found.image and found.params.get("prediction") is not None:
            mask = np.zeros(shape, np.uint8)  # of a classification
        else:
            mask = infer.mask_of(found.image, (shape[0], shape[1]))
        confidence, unfamiliarity = scores.confidence_of(found.params), scores.unfamiliarity_of(found.params)
        return Result(mask, confidence, _versioned(model, found.params), found.params, unfamiliarity)

    def refine(
        self, frame: Frame, prompts: Prompts, previous: NDArray[np.uint8] | None, model: str, cancel: Cancel
    ) -> Result:
        drawn = None if previous is None or not (previous == prompts.label).any() else previous == prompts.label
        if prompts.empty:
            raise BackendError("There is nothing drawn yet: click into the structure, or draw a box around it.")
        positive, negative = points_of(prompts, frame.image.shape[:2])
        if self.item:
            mask, confidence, info = self._clicked(frame, positive, negative, prompts.box, drawn, cancel)
        else:
            mask, confidence, info = self._sent(frame, positive, negative, prompts.box, drawn, model, cancel)
        return Result(carry.with_label(previous, mask > 0, prompts.label), confidence, _versioned(model, info), info)

    def propagate(
        self,
        frames: Sequence[Frame],
        mask: NDArray[np.uint8],
        model: str,
        cancel: Cancel,
        on_result: Callable[[int, Result], None],
    ) -> str:
        """See ``Backend``. A label that the server has is carried on by it, and its proposals are kept there; a mask
        that was not submitted is carried on by clicks, and nothing is kept."""
        if self.item:
            carried = Carried(self, frames, mask, model or INTERACTIVE, cancel, on_result)
            if carried.held():
                return carried.run()
        return carry.carry(frames, mask, self._proposal(model), cancel, on_result)

    def segment_volume(self, volume: Volume, model: str, cancel: Cancel) -> NDArray[np.uint8]:
        """(K, J, I) label numbers on the volume's own grid. Errors: BackendError where the answer lies elsewhere."""
        return segment_volume(self.client, self._uploads, volume, model, cancel)

    def close(self) -> None:
        self.client.close()

    def frame_id(self, index: int) -> str:
        return f"{self.item}.f{index:05d}"

    def _proposal(self, model: str) -> carry.Propose:
        """Each label of the mask clicked on in the next frame, by itself."""

        def propose(frame: Frame, before: NDArray[np.uint8], cancel: Cancel) -> Result:
            mask, doubts, last = np.zeros(before.shape, np.uint8), [], None
            for number in np.unique(before[before > 0]).tolist():
                only = np.where(before == number, before, 0).astype(np.uint8)
                last = self.refine(frame, carry.prompts_of(before, number), only, model, cancel)
                mask[(last.mask == number) & (mask == 0)] = number
                doubts.append(last.confidence)
            known = [one for one in doubts if one is not None]
            return Result(mask, min(known) if known else None, last.model if last else model)

        return propose

    def _clicked(
        self,
        frame: Frame,
        positive: list[list[float]],
        negative: list[list[float]],
        box: Any,
        drawn: NDArray[np.bool_] | None,
        cancel: Cancel,
    ) -> tuple[NDArray[np.uint8], float | None, dict[str, Any]]:
        body: dict[str, Any] = {"positive": positive, "negative": negative, "box": list(box) if box else None}
        if drawn is not None:
            body["mask"] = base64.b64encode(png.encode(drawn.astype(np.uint8))).decode()
        if self.client.annotator:
            body["annotator"] = self.client.annotator
        answer = self.client.request(
            "POST", f"/sonodistill/click/{self.frame_id(frame.index)}", cancel, body=body, most=SMALL
        )
        shape = frame.image.shape
        return png.decode(answer.content, (shape[0], shape[1])), header_number(answer, "Confidence"), {}

    def _sent(
        self,
        frame: Frame,
        positive: list[list[float]],
        negative: list[list[float]],
        box: Any,
        drawn: NDArray[np.bool_] | None,
        model: str,
        cancel: Cancel,
    ) -> tuple[NDArray[np.uint8], float | None, dict[str, Any]]:
        params: dict[str, Any] = {"foreground": positive, "background": negative, "reset_state": True}
        params |= {"result_extension": ".png", **({"box": list(box)} if box else {})}
        label = None if drawn is None else ("label.png", png.encode(drawn.astype(np.uint8)))
        key = hashlib.sha256(frame.image.tobytes() + str(frame.image.shape).encode()).hexdigest()
        found = self._uploads.use(
            key,
            lambda: ("frame.png", png.encode(frame.image)),
            lambda session: infer.infer(self.client, model, params, cancel, session=session, label=label),
            cancel,
        )
        shape = frame.image.shape
        return infer.mask_of(found.image, (shape[0], shape[1])), scores.confidence_of(found.params), found.params


def is_ours(client: Client, cancel: Cancel) -> bool:
    """Whether the server runs our app: what its ``/openapi.json`` lists, or, where it has none, its name."""
    try:
        listed = client.json("GET", "/openapi.json", cancel).get("paths", {})
        return isinstance(listed, dict) and _OURS in listed
    except (RefusedError, AttributeError):
        info = client.json("GET", "/info/", cancel)
        return isinstance(info, dict) and str(info.get("name", "")).startswith("SonoDistill")


def _versioned(model: str, params: dict[str, Any]) -> str:
    version = params.get("version")
    return f"{model} {version}" if isinstance(version, int | str) and str(version) else model

"""Routes of items, frames and their labels."""

from __future__ import annotations

import io
from dataclasses import asdict
from typing import Annotated, Any
from urllib.parse import quote

import numpy as np
from fastapi import APIRouter, BackgroundTasks, Depends, Query, Request
from fastapi.responses import Response
from numpy.typing import NDArray
from PIL import Image
from starlette.datastructures import UploadFile

from lib.server.errors import Refused
from lib.server.limits import form_body, json_body
from lib.server.who import annotator_of, frame_of
from sonodistill.annotate.errors import InvalidLabelError, UnknownIdError
from sonodistill.annotate.ids import FrameId
from sonodistill.annotate.labels import mask as masks
from sonodistill.annotate.model import FINAL, Item, LabelRow, Status
from sonodistill.annotate.training.process import start_if_due
from sonodistill.annotate.workbench import Workbench

_PNG = "image/png"
_MOST = 10_000


def router(workbench: Workbench) -> APIRouter:
    """``/sonodistill/items``, ``frame`` and ``label``."""
    routes = APIRouter(prefix="/sonodistill", tags=["Frames"])
    catalogue, labels = workbench.catalogue, workbench.labels

    @routes.get("/items", summary="What can be annotated")
    def items(
        offset: Annotated[int, Query(ge=0)] = 0, limit: Annotated[int, Query(ge=1, le=_MOST)] = 1000
    ) -> dict[str, Any]:
        found = catalogue.items()
        return {
            "total": len(found),
            "items": [_item(item) for item in found[offset : offset + limit]],
            "skipped": [{"name": name, "reason": reason} for name, reason in catalogue.skipped()[:_MOST]],
            "labels": list(labels.names),
            "classes": list(labels.classes),
        }

    @routes.get("/items/{id}", summary="An item and the status of its frames")
    def item(id: str) -> dict[str, Any]:
        found, _ = catalogue.locate(id)
        known = labels.status_of(found.id)
        frames = [
            {
                "id": str(FrameId(found.id, index)),
                "index": index,
                "status": known[index].value if index in known else "",
            }
            for index in range(found.frames)
        ]
        return {**_item(found), "frames": frames}

    @routes.get("/frame/{id}.png", summary="A frame as a gray PNG")
    def frame(id: str) -> Response:
        image = catalogue.frame(frame_of(catalogue, id)).image
        return Response(masks.to_png(image), media_type=_PNG)

    @routes.get("/label/{id}", summary="The best label of a frame, or an annotator's, as a PNG of label numbers")
    def label(id: str, annotator: str | None = None) -> Response:
        which = frame_of(catalogue, id)
        found = labels.get(which, annotator)
        if found is None:
            raise UnknownIdError(f"frame {which} has no label", remedy="see its item for the status of each frame")
        headers = _headers(found.row)
        if found.mask is None:  # skipped, or of a class alone
            return Response(status_code=204, headers=headers)
        return Response(masks.to_png(found.mask), media_type=_PNG, headers=headers)

    @routes.get("/label/{id}/rows", summary="The labels of a frame without their pixels, and those of before")
    def rows(id: str) -> dict[str, Any]:
        which = frame_of(catalogue, id)
        return {
            "current": [row_json(row) for row in labels.rows(frame=which)],
            "history": [row_json(row) for row in labels.history(which)],
        }

    @routes.put("/label/{id}", summary="Save a label: a PNG of label numbers, or a form with one as `label`")
    def put_label(
        id: str,
        request: Request,
        afterwards: BackgroundTasks,
        png: Annotated[bytes | None, Depends(_png_of)],
        status: Status = Status.EDITED,
        annotator: str = "",
        classification: str = "",
        model: str = "",
        confidence: float | None = None,
        expect_revision: int | None = None,
    ) -> dict[str, Any]:
        which, name = frame_of(catalogue, id), annotator_of(request, annotator)
        shape = catalogue.frame(which).image.shape
        mask = None if png is None else mask_of(png, (shape[0], shape[1]))
        row = labels.save(
            which,
            mask,
            status=status,
            annotator=name,
            shape=(shape[0], shape[1]),
            classification=classification,
            model=model,
            confidence=confidence,
            expect_revision=expect_revision,
        )
        _saved(row, afterwards)
        return row_json(row)

    @routes.post("/label/{id}/status", summary="Accept, reopen or skip")
    def mark(
        id: str,
        request: Request,
        afterwards: BackgroundTasks,
        body: Annotated[dict[str, Any], Depends(json_body)],
    ) -> dict[str, Any]:
        which, name = frame_of(catalogue, id), annotator_of(request, body.get("annotator"))
        try:
            status = Status(body.get("status"))
        except ValueError:
            names = ", ".join(one.value for one in Status)
            raise InvalidLabelError("that is no status", remedy=f"one of {names}") from None
        seen, kind = body.get("expect_revision"), body.get("classification")
        if not (seen is None or type(seen) is int) or not isinstance(kind, str | None):
            raise InvalidLabelError("expect_revision is a whole number, classification a text")
        # One that cannot be read can be skipped.
        image = None if status is Status.SKIPPED else catalogue.frame(which).image
        shape = None if image is None else (image.shape[0], image.shape[1])
        row = labels.mark(which, status, name, classification=kind, shape=shape, expect_revision=seen)
        _saved(row, afterwards)
        return row_json(row)

    @routes.delete("/label/{id}", summary="Take one's own label back")
    def delete(id: str, request: Request, annotator: str = "") -> dict[str, Any]:
        which, name = frame_of(catalogue, id), annotator_of(request, annotator)
        labels.remove(which, name)
        return {"frame": str(which), "annotator": name}

    def _saved(row: LabelRow, afterwards: BackgroundTasks) -> None:
        if row.status in FINAL and workbench.settings.train_after:
            afterwards.add_task(start_if_due, workbench)

    return routes


async def _png_of(request: Request) -> bytes | None:
    """The mask in the body: PNG, or the file ``label`` of a form; None without a body."""
    kind = request.headers.get("content-type", _PNG).partition(";")[0].strip().lower()
    if kind == "multipart/form-data":
        form = await form_body(request)
        file = form.get("label")
        if not isinstance(file, UploadFile):
            raise Refused(422, "InvalidForm", "the form has to have the mask as a file named label")
        return await file.read()
    if kind not in (_PNG, "application/octet-stream"):
        raise Refused(415, "InvalidType", "a mask is image/png", "send a PNG of label numbers")
    return await request.body() or None


def mask_of(png: bytes, shape: tuple[int, int]) -> NDArray[Any]:
    """(H, W) uint8 of a gray, palette or 1-bit PNG of that shape: its numbers, not its colours.

    Nothing of another shape is decoded. Errors: InvalidLabelError.
    """
    try:
        with Image.open(io.BytesIO(png), formats=("PNG",)) as image:
            if image.size != (shape[1], shape[0]):
                found = f"{image.height} x {image.width}"
                raise InvalidLabelError(f"the mask is {found}, its frame {shape[0]} x {shape[1]} (height by width)")
            if image.mode not in ("L", "P", "1"):
                raise InvalidLabelError(f"the mask is of mode {image.mode}", remedy="send a gray PNG of label numbers")
            image.load()
            return np.array(image)
    except InvalidLabelError:
        raise
    except Exception as error:  # noqa: BLE001 - Pillow raises what it likes for damaged data
        raise InvalidLabelError(f"the mask is no PNG that can be read ({type(error).__name__})") from None


def row_json(row: LabelRow) -> dict[str, Any]:
    return {**asdict(row), "frame": str(row.frame), "status": row.status.value}


def _item(item: Item) -> dict[str, Any]:
    return {"id": item.id, "name": item.name, "kind": item.kind, "frames": item.frames, "series": item.series}


def _headers(row: LabelRow) -> dict[str, str]:
    said = {
        "Status": row.status.value,
        "Annotator": row.annotator,
        "Revision": row.revision,
        "Classification": row.classification,
        "Confidence": "" if row.confidence is None else row.confidence,
    }
    return {f"X-SonoDistill-{name}": quote(str(value), safe=" @") for name, value in said.items() if value != ""}

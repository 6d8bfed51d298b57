"""MONAI Label's own routes of images and labels, for stock clients."""

from __future__ import annotations

import logging
from enum import Enum
from pathlib import Path
from typing import Annotated, Any

from fastapi import APIRouter, Depends, Request
from fastapi.responses import FileResponse, Response
from monailabel.interfaces.app import MONAILabelApp
from monailabel.utils.others.generic import file_checksum, get_mime_type
from starlette.datastructures import FormData

from lib.saved import FINAL, ORIGINAL
from lib.server.errors import Refused
from lib.server.limits import field, form_body, parse_json, saved, suffix_of, upload
from lib.server.params import checked
from lib.server.who import annotator_of, sender_of, signed_in
from sonodistill.annotate.errors import UnknownIdError
from sonodistill.annotate.ids import check_item_id, check_name
from sonodistill.annotate.model import MODEL

logger = logging.getLogger(__name__)
Form = Annotated[FormData, Depends(form_body)]


class Output(str, Enum):
    """What is listed."""

    TRAIN = "train"
    STATS = "stats"
    ALL = "all"


def router(app: MONAILabelApp) -> APIRouter:
    """``/datastore``."""
    routes = APIRouter(prefix="/datastore", tags=["Datastore"])
    store = app.datastore()

    @routes.get("/", summary="All images and labels")
    def listing(output: Output = Output.STATS) -> Any:
        if output is Output.TRAIN:
            raise Refused(403, "Refused", "the list for training is one of paths", "POST /sonodistill/export")
        return store.json() if output is Output.ALL else store.status()

    @routes.put("/", include_in_schema=False)
    @routes.put("/image", summary="Upload an image")
    def add_image(request: Request, form: Form, image: str = "") -> dict[str, Any]:
        file = upload(form, "file")
        # The stock client sends "None" where its user gave no name.
        name = image if image not in ("", "None") else _stem(file.filename)
        check_item_id(name)
        params = _params(request, form)
        with saved(file, ".nii.gz") as path:
            return {"image": store.add_image(name, str(path), params)}

    @routes.delete("/", include_in_schema=False)
    @routes.delete("/image", summary="Remove an image that was uploaded")
    def remove_image(request: Request, id: str) -> dict[str, Any]:
        item = store.images.find(check_item_id(id)).items[0]
        others = {row.annotator for row in store.labels.rows(item=item.id)} - {MODEL, annotator_of(request)}
        if signed_in(request) and others:
            raise Refused(403, "Refused", "others have labelled it", "ask them to take their labels back")
        store.remove_image(id)
        return {}

    @routes.head("/image", summary="Whether there is such an image")
    def check_image(image: str, check_sum: str = "") -> dict[str, Any]:
        path = _file(store.get_image_uri(check_item_id(image)))
        digest = check_sum.rpartition(":")[2].lower()
        if digest and digest != file_checksum(str(path), algo="SHA256").rpartition(":")[2].lower():
            raise UnknownIdError("there is no such image with this SHA-256")
        return {}

    @routes.get("/image", summary="An image as a file")
    def image_file(image: str) -> Response:
        return _download(store.get_image_uri(check_item_id(image)), image)

    @routes.get("/image/info", summary="What is known of an image")
    def image_info(image: str) -> Any:
        return store.get_image_info(check_item_id(image))

    @routes.put("/image/info", summary="Keep something with an image")
    def put_image_info(request: Request, form: Form, image: str) -> Any:
        return store.update_image_info(check_item_id(image), _params(request, form, "info"))

    @routes.put("/label", summary="Save a label")
    def save_label(request: Request, form: Form, image: str, tag: str = FINAL) -> dict[str, Any]:
        check_item_id(image)
        check_name(tag or FINAL, "tag")
        if signed_in(request) and (tag or FINAL) not in (FINAL, ORIGINAL, annotator_of(request)):
            raise Refused(403, "Refused", "the tag is the name of another annotator", "use final, or your own name")
        file, params = upload(form, "label"), _params(request, form)
        with saved(file, ".nii.gz") as path:
            label = store.save_label(image, str(path), tag or FINAL, params)
        return {**(app.on_save_label(image, label) or {}), "image": image, "label": label}

    @routes.delete("/label", summary="Take a label back")
    def remove_label(request: Request, id: str, tag: str) -> dict[str, Any]:
        _require_nobody_signed_in(request)
        store.remove_label(check_item_id(id), check_name(tag, "tag"))
        return {}

    @routes.head("/label", summary="Whether there is such a label")
    def check_label(image: str, tag: str) -> dict[str, Any]:
        _file(store.get_label_uri(check_item_id(image), check_name(tag, "tag")))
        return {}

    @routes.get("/label", summary="A label as a file")
    def label_file(label: str, tag: str) -> Response:
        return _download(store.get_label_uri(check_item_id(label), check_name(tag, "tag")), label)

    @routes.get("/label/info", summary="What is known of a label")
    def label_info(label: str, tag: str) -> Any:
        return store.get_label_info(check_item_id(label), check_name(tag, "tag"))

    @routes.put("/label/info", summary="Keep something with a label")
    def put_label_info(request: Request, form: Form, label: str, tag: str) -> Any:
        return _update(request, form, label, tag, "info")

    @routes.put("/updatelabelinfo", include_in_schema=False)
    def update_label_info(request: Request, form: Form, label: str, tag: str) -> Any:
        return _update(request, form, label, tag, "params")

    def _update(request: Request, form: FormData, label: str, tag: str, name: str) -> Any:
        _require_nobody_signed_in(request)
        info = _params(request, form, name)
        return store.update_label_info(check_item_id(label), check_name(tag, "tag"), info)

    return routes


def _require_nobody_signed_in(request: Request) -> None:
    """A tag is of several people's labels; who has a token changes their own only."""
    if signed_in(request):
        raise Refused(403, "Refused", "a tag may be of other annotators' labels", "use /sonodistill/label/<frame>")


def _params(request: Request, form: FormData, name: str = "params") -> dict[str, Any]:
    given = parse_json(field(form, name, "{}"))
    return checked(given, sender_of(request, given))


def _stem(filename: str | None) -> str:
    name = (filename or "").replace("\\", "/").rpartition("/")[2]
    return name[: len(name) - len(suffix_of(name, ""))]


def _file(uri: str) -> Path:
    path = Path(uri)
    if not uri or not path.is_file():
        raise UnknownIdError("there is no such file", remedy="see GET /datastore/?output=all")
    return path


def _download(uri: str, id: str) -> Response:
    """The file under the id that was asked for: its own name may tell more than an id does."""
    path = _file(uri)
    try:
        suffix = suffix_of(path.name, "")
    except Refused:
        suffix = path.suffix
    return FileResponse(path, media_type=get_mime_type(str(path)), filename=f"{id}{suffix}")

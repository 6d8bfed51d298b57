"""MONAI Label's own routes of inference and of sessions, for stock clients."""

from __future__ import annotations

import json
import logging
import shutil
import tempfile
import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from enum import Enum
from pathlib import Path
from typing import Annotated, Any

from fastapi import APIRouter, Depends, Request
from fastapi.responses import FileResponse, JSONResponse, Response
from monailabel.interfaces.app import MONAILabelApp
from monailabel.utils.others.generic import get_mime_type
from requests_toolbelt import MultipartEncoder
from starlette.background import BackgroundTask
from starlette.datastructures import FormData, UploadFile

from lib.server.errors import Refused
from lib.server.limits import LIMITS, Limits, field, form_body, has, parse_json, saved, session_id, suffix_of, upload
from lib.server.params import checked
from lib.server.who import sender_of
from sonodistill.annotate.errors import UnknownIdError
from sonodistill.annotate.ids import check_item_id

logger = logging.getLogger(__name__)
Form = Annotated[FormData, Depends(form_body)]


class Output(str, Enum):
    """What an inference answers; all: JSON, and the image where there is one."""

    IMAGE = "image"
    JSON = "json"
    ALL = "all"
    DICOM_SEG = "dicom_seg"


async def _form_or_nothing(request: Request) -> FormData:
    if not request.headers.get("content-type") and request.headers.get("content-length", "0") == "0":
        return FormData()
    return await form_body(request)


def router(app: MONAILabelApp, limits: Limits = LIMITS) -> APIRouter:
    """``/infer`` and ``/session``."""
    routes = APIRouter(tags=["Infer"])
    creating = threading.Lock()
    waiting = {name: threading.BoundedSemaphore(limits.waiting) for name in app._infers}

    @routes.post("/infer/{model}", summary="Run a model on an image, a frame, a session or a file")
    def infer(
        request: Request,
        form: Annotated[FormData, Depends(_form_or_nothing)],
        model: str,
        image: str = "",
        session_id: str = "",
        output: Output = Output.ALL,
    ) -> Response:
        if model not in app._infers:
            raise UnknownIdError(f"there is no model {model[:60]!r}", remedy="see GET /info/")
        if output is Output.DICOM_SEG:
            raise Refused(400, "Unsupported", "an inference is no DICOM SEG", "save it and POST /sonodistill/export")
        given = parse_json(field(form, "params", "{}"))
        asked = {"model": model, **checked(given, sender_of(request, given))}
        with ExitStack() as files:
            files.enter_context(_turn(waiting[model]))
            asked["image"] = _image(app, image, session_id, form, files)
            if has(form, "label"):
                asked["label"] = str(files.enter_context(saved(upload(form, "label"), ".nii.gz")))
            result = app.infer(asked)
        if not result:
            raise Refused(500, "InternalError", "the model gave no result")
        return _answer(result, output)

    @routes.put("/session/", tags=["Session"], summary="Keep an image for some inferences")
    def create(form: Form, uncompress: bool = False, expiry: int = 0) -> dict[str, Any]:
        if uncompress:
            raise Refused(403, "Refused", "archives are not unpacked", "send one image")
        files = [file for file in form.getlist("files") if isinstance(file, UploadFile)]
        if len(files) != 1:
            raise Refused(422, "InvalidForm", "a session has one image, sent as `files`")
        with creating, saved(files[0], ".nii.gz") as path:
            _make_room(app, path.stat().st_size, limits)
            id, info = app.sessions().add_session(str(path), max(0, expiry), False)
        return {"session_id": id, "session_info": _told(info)}

    @routes.get("/session/{id}", tags=["Session"], summary="A session, or its image")
    def get(id: str, update_ts: bool = False, image: bool = False) -> Any:
        info = _session(app, id, update=update_ts)
        if image:
            path = Path(info.image)
            return FileResponse(path, media_type=get_mime_type(info.image), filename=f"{id}{suffix_of(path.name, '')}")
        return _told(info)

    @routes.delete("/session/{id}", tags=["Session"], summary="End a session")
    def end(id: str) -> dict[str, Any]:
        info = _session(app, id)
        app.sessions().remove_session(session_id(id))
        return _told(info)

    return routes


@contextmanager
def _turn(waiting: threading.BoundedSemaphore) -> Iterator[None]:
    """One of the few that may wait for a model: more would take all threads, and leave none to save labels with."""
    if not waiting.acquire(blocking=False):
        raise Refused(503, "Busy", "too many wait for this model", "ask again", {"Retry-After": "5"})
    try:
        yield
    finally:
        waiting.release()


def _image(app: MONAILabelApp, image: str, session: str, form: FormData, files: ExitStack) -> str:
    """An id, or a file of our own name; never a path that the client gave."""
    if session:
        return str(_session(app, session, update=True).image)
    if has(form, "file"):
        return str(files.enter_context(saved(upload(form, "file"), ".nii.gz")))
    if not image:
        raise Refused(422, "InvalidRequest", "which image is not said", "give image=, session_id= or a file")
    return check_item_id(image)


def _answer(result: dict[str, Any], output: Output) -> Response:
    said = result.get("params") or {}
    made = result.get("file") or result.get("label")
    path = Path(made) if isinstance(made, str) and made else None
    ours = path is not None and path.is_file() and path.resolve().is_relative_to(Path(tempfile.gettempdir()).resolve())
    if output is Output.JSON or path is None or not path.is_file():
        if ours:
            _remove(path)
        if output is Output.IMAGE:
            raise Refused(422, "NoImage", "this model answers no image", "ask for output=json")
        return JSONResponse(said)
    name = f"result{suffix_of(path.name, '.bin')}"
    background = BackgroundTask(_remove, path) if ours else None
    if output is Output.IMAGE:
        return FileResponse(path, media_type=get_mime_type(str(path)), filename=name, background=background)
    with path.open("rb") as image:
        fields = {
            "params": (None, json.dumps(said), "application/json"),
            "image": (name, image, get_mime_type(str(path))),
        }
        encoder = MultipartEncoder(fields=fields)
        return Response(encoder.to_string(), media_type=encoder.content_type, background=background)


def _remove(path: Path) -> None:
    path.unlink(missing_ok=True)


def _session(app: MONAILabelApp, id: str, *, update: bool = False) -> Any:
    sessions = app.sessions()
    info = sessions.get_session(session_id(id), update_ts=update) if sessions is not None else None
    if info is None:
        raise UnknownIdError("there is no such session", remedy="sessions end by themselves; PUT /session/ makes one")
    return info


def _told(info: Any) -> dict[str, Any]:
    """What a session is, without where it lies."""
    return {name: value for name, value in info.to_json().items() if name not in ("path", "image", "meta")}


def _make_room(app: MONAILabelApp, size: int, limits: Limits) -> None:
    """Errors: Refused with 429 when there are as many sessions, or bytes in them, as there may be."""
    sessions = app.sessions()
    if sessions is None:
        raise Refused(406, "Unsupported", "this server keeps no sessions")
    folder = Path(sessions.store_path)
    folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    sessions.remove_expired()
    held = [path for path in folder.iterdir() if path.is_dir()]
    used = sum(file.stat().st_size for home in held for file in home.rglob("*") if file.is_file())
    if len(held) >= limits.sessions or used + size > limits.session_bytes:
        raise Refused(429, "TooManySessions", "there are as many sessions as there may be", "end one, or wait")
    if shutil.disk_usage(folder).free < size + (256 << 20):
        raise Refused(507, "NoSpace", "the disk is full")

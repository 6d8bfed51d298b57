"""Routes of what takes minutes: training, as ours and as MONAI Label's, and inference of everything."""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated, Any

from fastapi import APIRouter, Depends, Request
from monailabel.endpoints import batch_infer
from monailabel.interfaces.app import MONAILabelApp
from monailabel.interfaces.tasks.batch_infer import BatchInferImageType

from lib.server.errors import Refused
from lib.server.limits import json_body
from lib.server.params import checked
from lib.server.who import sender_of
from sonodistill.annotate.errors import ConflictError, InvalidLabelError, UnknownIdError
from sonodistill.annotate.ids import check_name
from sonodistill.annotate.training.process import start_training, stop_training
from sonodistill.annotate.training.state import IDLE, RUNNING, TRAINED, TrainSettings, read_progress
from sonodistill.annotate.workbench import SEGMENTATION, Workbench

Body = Annotated[dict[str, Any], Depends(json_body)]
_STATES = {"running": "RUNNING", "done": "DONE", "cancelled": "STOPPED"}
_BATCH = ("device", "label_tag", "max_workers", "max_batch_size")


def router(app: MONAILabelApp, workbench: Workbench, cleaned: Callable[[str], str]) -> APIRouter:
    """``/sonodistill/train``, ``/train`` and ``/batch``."""
    routes = APIRouter(tags=["Train"])
    work = workbench.settings.work

    @routes.get("/sonodistill/train", summary="How far the trainings are")
    def progress() -> dict[str, Any]:
        return {model: _told(read_progress(work, model)) for model in TRAINED}

    @routes.post("/sonodistill/train", summary="Train a model on the accepted labels")
    def start(body: Body) -> dict[str, Any]:
        given = dict(body)
        model, name = given.pop("model", SEGMENTATION), given.pop("annotator", None)
        if not isinstance(model, str):
            raise InvalidLabelError("model is the name of one", remedy=f"one of {', '.join(TRAINED)}")
        return _told(start_training(workbench, model, given, annotator=check_name(name) if name else None))

    @routes.delete("/sonodistill/train", summary="Stop the training; the next one goes on where it was")
    def stop() -> dict[str, Any]:
        model = stop_training(work)
        return _told(read_progress(work, model))

    @routes.get("/train/", summary="The latest training")
    def stock_status(all: bool = False, check_if_running: bool = False) -> Any:
        known = [read_progress(work, model) for model in TRAINED]
        known = [one for one in known if one["state"] == RUNNING or (not check_if_running and one["state"] != IDLE)]
        tasks = [_task(one) for one in sorted(known, key=lambda one: one.get("time", 0.0))]
        if not tasks:
            raise Refused(404, "UnknownTask", "no training runs" if check_if_running else "nothing was trained yet")
        return tasks if all else tasks[-1]

    @routes.post("/train/", include_in_schema=False)
    def stock_start_all(body: Body, run_sync: bool = False) -> Any:
        named = [model for model in TRAINED if isinstance(body.get(model), dict)] or [SEGMENTATION]
        done: dict[str, Any] = {}
        for model in named:
            try:
                done[model] = {"result": _stock(model, body.get(model) or {}, run_sync), "detail": None}
            except ConflictError as error:
                done[model] = {"result": None, "detail": error.message}
        return done

    @routes.post("/train/{model}", summary="Train a model")
    def stock_start(body: Body, model: str, run_sync: bool = False) -> Any:
        return _stock(model, body, run_sync)

    @routes.delete("/train/", summary="Stop the training")
    def stock_stop() -> Any:
        try:
            model = stop_training(work)
        except ConflictError:
            return None
        return _task(read_progress(work, model))

    @routes.get("/batch/infer", summary="The latest inference of many images", tags=["Infer"])
    def batch_status(all: bool = False, check_if_running: bool = False) -> Any:
        found = batch_infer.status(all, check_if_running)
        return [_batch(one) for one in found] if isinstance(found, list) else _batch(found)

    @routes.post("/batch/infer/{model}", summary="Predict many images, and keep it", tags=["Infer"])
    def batch_run(
        request: Request,
        body: Body,
        model: str,
        images: BatchInferImageType = BatchInferImageType.IMAGES_ALL,
        run_sync: bool = False,
    ) -> Any:
        if model not in app._infers:
            raise UnknownIdError(f"there is no model {model[:60]!r}", remedy="see GET /info/")
        wanted = {name: body[name] for name in _BATCH if name in body}
        for name in ("max_workers", "max_batch_size"):
            if name in wanted and (type(wanted[name]) is not int or not 0 <= wanted[name] <= 1_000_000):
                raise Refused(422, "InvalidParameter", f"{name} is a whole number")
        if "label_tag" in wanted:
            check_name(wanted["label_tag"], "tag")
        params = {"device": "cpu", "multi_gpu": False, "max_workers": 1, "save_label": True, "label_tag": "original"}
        params |= checked(wanted, sender_of(request, body))
        found = batch_infer.run(model, images, params, run_sync)
        return found if run_sync else _batch(found)

    @routes.delete("/batch/infer", summary="Stop it", tags=["Infer"])
    def batch_stop() -> Any:
        found = batch_infer.stop()
        return None if found is None else _batch(found)

    def _stock(model: str, body: dict[str, Any], run_sync: bool) -> dict[str, Any]:
        if run_sync:
            raise Refused(
                400, "Unsupported", "a training runs in the background", "leave run_sync out, and ask GET /train/"
            )
        settings = TrainSettings.of(model, body, strict=False)
        given = {name: getattr(settings, name) for name in TrainSettings.__slots__}
        return _task(start_training(workbench, model, given))

    def _told(progress: dict[str, Any]) -> dict[str, Any]:
        """The progress, without what is the server's own."""
        told = {name: value for name, value in progress.items() if name != "pid"}
        return {**told, "message": cleaned(str(told["message"]))} if "message" in told else told

    def _task(progress: dict[str, Any]) -> dict[str, Any]:
        """The progress as MONAI Label's clients know it."""
        state, model = _STATES.get(progress["state"], "ERROR"), progress["model"]
        return {"id": model, "status": state, "request": {"model": model}, "details": [], **_told(progress)}

    return routes


def _batch(task: Any) -> Any:
    """A task of MONAI Label without its command and its log, which name paths."""
    kept = {name: task[name] for name in ("id", "status", "start_ts", "end_ts") if name in task}
    return {**kept, "request": {"model": task.get("request", {}).get("model")}, "details": []}

"""MONAI Label's own routes of what is not inference, for stock clients: information, next sample, training, models."""

from __future__ import annotations

from typing import Annotated, Any

from fastapi import APIRouter, Depends, Request
from fastapi.responses import FileResponse, Response
from monailabel.interfaces.app import MONAILabelApp

from lib.server.errors import Refused
from lib.server.limits import json_body
from lib.server.params import checked
from lib.server.who import sender_of
from sonodistill.annotate.errors import UnknownIdError
from sonodistill.annotate.workbench import MODELS, Workbench
from sonodistill.dicom.config_checks import is_loopback

Body = Annotated[dict[str, Any], Depends(json_body)]


def router(app: MONAILabelApp, workbench: Workbench) -> APIRouter:
    """``/info``, ``/activelearning``, ``/scoring``, ``/batch`` and ``/model``."""
    routes = APIRouter(tags=["App"])

    @routes.get("/info/", summary="What this server is and can do")
    def info() -> Any:
        return app.info()

    @routes.post("/activelearning/{strategy}", summary="What to label next", tags=["ActiveLearning"])
    def next_sample(request: Request, body: Body, strategy: str) -> Any:
        if strategy not in app._strategies:
            raise UnknownIdError(f"there is no strategy {strategy[:60]!r}", remedy="see GET /info/")
        found = app.next_sample({**checked(body, sender_of(request, body)), "strategy": strategy}) or {}
        if not is_loopback(request.client.host if request.client else ""):
            found.pop("path", None)  # opened by clients of this machine, and told nobody else
        return found

    @routes.get("/scoring/", summary="Nothing is scored in the background", tags=["Scoring"])
    def scoring() -> Any:
        raise Refused(404, "UnknownTask", "no scoring has run", "scores come with POST /sonodistill/next")

    @routes.post("/scoring/{method}", include_in_schema=False)
    @routes.post("/scoring/", include_in_schema=False)
    @routes.delete("/scoring/", include_in_schema=False)
    def no_scoring() -> Any:
        raise Refused(404, "UnknownTask", "there is no scoring method", "scores come with POST /sonodistill/next")

    @routes.get("/model/{model}", summary="The promoted weights", tags=["Model"])
    def download(model: str) -> Response:
        version = _version(model)
        return FileResponse(
            version.path, media_type="application/octet-stream", filename=f"{model}{version.path.suffix}"
        )

    @routes.get("/model/info/{model}", summary="The promoted version", tags=["Model"])
    def model_info(model: str) -> Any:
        version = _version(model)
        return {
            "checksum": f"SHA256:{version.sha256}",
            "modified_time": int(version.created),
            "version": version.number,
            "metrics": version.metrics,
        }

    def _version(model: str) -> Any:
        version = workbench.versions[model].current() if model in MODELS else None
        if version is None:
            raise UnknownIdError(f"there is no model {model[:60]!r} with weights", remedy="see GET /sonodistill/models")
        return version

    return routes

"""Everything that the annotation server serves."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from fastapi import FastAPI

from lib.server import (
    routes_frames,
    routes_infer,
    routes_models,
    routes_pages,
    routes_store,
    routes_tasks,
    routes_train,
    routes_work,
    viewer,
)
from lib.server.errors import add_handlers, cleaner
from sonodistill.annotate.server.tokens import Tokens


def application(monai_app: Any, tokens: Tokens | None = None) -> FastAPI:
    """The routes of ``monai_app``: stock ones that check what they are sent, and ours under ``/sonodistill``."""
    workbench = monai_app.workbench
    settings = workbench.settings
    private = [settings.work, Path(monai_app.app_dir)]
    cleaned = cleaner(private if settings.studies.startswith("http") else [*private, Path(settings.studies)])
    app = FastAPI(title="SonoDistill annotation", openapi_url="/openapi.json", docs_url=None, redoc_url=None)
    add_handlers(app, cleaned)
    for router in (
        routes_pages.router(app, tokens),
        routes_tasks.router(monai_app, workbench),
        routes_train.router(monai_app, workbench, cleaned),
        routes_infer.router(monai_app),
        routes_store.router(monai_app),
        routes_frames.router(workbench),
        routes_work.router(workbench),
        routes_models.router(workbench),
        viewer.router(workbench),
    ):
        app.include_router(router)
    return app

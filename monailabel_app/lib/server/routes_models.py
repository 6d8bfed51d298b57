"""Routes of models and training, of agreement, and of labels on their way out and in."""

from __future__ import annotations

import shutil
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from fastapi import APIRouter, Depends, Request
from fastapi.responses import FileResponse, Response
from starlette.background import BackgroundTask
from starlette.datastructures import FormData

from lib.server.limits import field, form_body, json_body, saved, upload
from lib.server.who import annotator_of, signed_in
from sonodistill.annotate.errors import ConflictError, InvalidLabelError, UnknownIdError
from sonodistill.annotate.ids import check_name
from sonodistill.annotate.model import FINAL, Status
from sonodistill.annotate.workbench import MODELS, Workbench
from sonodistill.files import write_text

if TYPE_CHECKING:
    from sonodistill.annotate.exchange import Report

Body = Annotated[dict[str, Any], Depends(json_body)]
_MOST = 10_000
_LEFT = 86_400.0


def router(workbench: Workbench) -> APIRouter:
    """``/sonodistill/models``, ``agreement``, ``export`` and ``import``."""
    routes = APIRouter(prefix="/sonodistill", tags=["Models"])
    exchanging = threading.Lock()
    _sweep(workbench.settings.work)

    @routes.get("/models", summary="The versions of each model")
    def models() -> dict[str, Any]:
        return {name: _versions(workbench, name) for name in MODELS}

    @routes.post("/models/{name}/promote", summary="Make a version the current one")
    def promote(name: str, body: Body) -> dict[str, Any]:
        number = body.get("number")
        if type(number) is not int:
            raise InvalidLabelError("number is that of a version", remedy="see GET /sonodistill/models")
        _model(name)
        workbench.versions[name].promote(number)
        return _versions(workbench, name)

    @routes.post("/models/{name}/rollback", summary="Go back to the version before")
    def rollback(name: str) -> dict[str, Any]:
        _model(name)
        workbench.versions[name].rollback()
        return _versions(workbench, name)

    @routes.get("/agreement", summary="How far annotators agree")
    def agreement() -> dict[str, Any]:
        from sonodistill.annotate.labels.agreement import agreement as measured

        return {"pairs": [_plain(asdict(pair)) for pair in measured(workbench.labels)]}

    @routes.post("/export", summary="Labels as a zip; SEG into the PACS, too")
    def export(body: Body) -> Response:
        from sonodistill.annotate.exchange import export as write_labels
        from sonodistill.annotate.exchange import of_pacs, pack, send

        form, images, store = body.get("form", "png"), body.get("images", False), body.get("store", False)
        if not isinstance(form, str) or not isinstance(images, bool) or not isinstance(store, bool):
            raise InvalidLabelError("form is a text, images and store are true or false")
        if store and form != "seg":
            raise InvalidLabelError("a PACS takes DICOM files alone", remedy='ask for the form "seg"')
        if store:
            of_pacs(workbench.catalogue)
        name = check_name(body["annotator"]) if body.get("annotator") else None
        statuses = FINAL if body.get("statuses") is None else _statuses(body["statuses"])
        with _alone(exchanging), _kept_until_sent(workbench.settings.work) as private:
            folder, packed = private / "labels", private / "labels.zip"
            catalogue, labels = workbench.catalogue, workbench.labels
            report = write_labels(catalogue, labels, folder, form, statuses=statuses, annotator=name, images=images)
            lines = [
                f"{len(report.written)} labels",
                *(f"{one.what}: not written: {one.reason}" for one in report.skipped),
            ]
            write_text(folder / "report.txt", "\n".join(lines) + "\n")
            headers = {"X-SonoDistill-Written": str(len(report.written))}
            if store:
                headers["X-SonoDistill-Stored"] = str(send(catalogue, folder))
            pack(folder, packed)
            return FileResponse(
                packed,
                media_type="application/zip",
                filename=f"labels-{form}.zip",
                headers=headers,
                background=BackgroundTask(shutil.rmtree, private, ignore_errors=True),
            )

    @routes.post("/import", summary="Take over labels of a file that was exported, zipped or not, sent as `file`")
    def take_over(request: Request, form: Annotated[FormData, Depends(form_body)]) -> dict[str, Any]:
        from sonodistill.annotate.exchange import import_labels

        said = field(form, "annotator")
        # Nobody says whose they are: they stay those of whom the file names.
        name = annotator_of(request, said) if said or signed_in(request) else None
        status = _statuses([field(form, "status")])[0] if field(form, "status") else None
        with _alone(exchanging), saved(upload(form, "file"), ".zip", workbench.settings.work) as path:
            report = import_labels(
                workbench.catalogue,
                workbench.labels,
                path,
                annotator=name,
                status=status,
                replace=field(form, "replace") == "true",
            )
        return _report(report)

    return routes


def _sweep(work: Path) -> None:
    """Remove what a process that was killed left of its exports and imports: copies of labels."""
    for left in [*work.glob(".export-*"), *work.glob("sonodistill-*")]:
        with suppress(OSError):
            if time.time() - left.stat().st_mtime > _LEFT:
                shutil.rmtree(left, ignore_errors=True)


@contextmanager
def _alone(lock: threading.Lock) -> Iterator[None]:
    if not lock.acquire(blocking=False):
        raise ConflictError("labels are exported or imported just now", remedy="wait for its end")
    try:
        yield
    finally:
        lock.release()


@contextmanager
def _kept_until_sent(work: Path) -> Iterator[Path]:
    """A folder that an error removes, and else whoever sends what is in it."""
    private = Path(tempfile.mkdtemp(prefix=".export-", dir=work))
    try:
        yield private
    except BaseException:
        shutil.rmtree(private, ignore_errors=True)
        raise


def _report(report: Report) -> dict[str, Any]:
    skipped = [{"what": one.what, "reason": one.reason} for one in report.skipped[:_MOST]]
    return {"written": report.written, "unchanged": report.unchanged, "skipped": skipped}


def _statuses(given: Any) -> tuple[Status, ...]:
    try:
        return tuple(Status(one) for one in given)
    except (TypeError, ValueError):
        known = ", ".join(one.value for one in Status)
        raise InvalidLabelError("that is no status", remedy=f"of {known}") from None


def _model(name: str) -> None:
    if name not in MODELS:
        raise UnknownIdError(f"there is no model {name[:60]!r}", remedy=f"one of {', '.join(MODELS)}")


def _versions(workbench: Workbench, name: str) -> dict[str, Any]:
    current = workbench.versions[name].current()
    return {
        "current": current.number if current else None,
        "versions": [
            {
                "number": one.number,
                "created": one.created,
                "note": one.note,
                "labels": list(one.labels),
                "metrics": _plain(one.metrics),
            }
            for one in workbench.versions[name].list()
        ],
    }


def _plain(value: Any) -> Any:
    """JSON values; what is no number (NaN) becomes null."""
    if isinstance(value, dict):
        return {str(key): _plain(one) for key, one in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(one) for one in value]
    if isinstance(value, float) and value != value:
        return None
    return value if isinstance(value, str | int | float | bool) or value is None else str(value)

"""What a client is told when something goes wrong: JSON, a 4xx or 5xx, and nothing of the inside of the server."""

from __future__ import annotations

import logging
import secrets
import sys
import tempfile
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from fastapi import FastAPI, HTTPException, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse, Response
from monailabel.interfaces.exception import MONAILabelException
from starlette.exceptions import HTTPException as StarletteHTTPException
from starlette.requests import ClientDisconnect

from sonodistill.errors import SonoDistillError

logger = logging.getLogger(__name__)
_LONGEST = 500


class Refused(HTTPException):
    """A request that is not served.

    Args:
        status: of HTTP.
        error: its name, for programs.
        detail, remedy: for people.
        headers: of the answer.
    """

    def __init__(
        self, status: int, error: str, detail: str, remedy: str = "", headers: dict[str, str] | None = None
    ) -> None:
        super().__init__(status, detail, headers)
        self.error, self.remedy = error, remedy

    def response(self) -> Response:
        return answer(self.status_code, self.error, str(self.detail), self.remedy, headers=self.headers)


def answer(
    status: int, error: str, detail: str, remedy: str | None = "", *, headers: Any = None, **more: Any
) -> JSONResponse:
    """The one shape of every refusal and failure."""
    content = {"error": error, "detail": detail[:_LONGEST], "remedy": (remedy or "")[:_LONGEST], **more}
    return JSONResponse(content, status, headers=dict(headers or {}))


def add_handlers(app: FastAPI, cleaned: Callable[[str], str]) -> None:
    """Answer every error of ``app``; see ``cleaner``."""

    async def of_ours(_: Request, error: SonoDistillError) -> Response:
        logger.info("refused: %s", type(error).__name__)
        status = getattr(error, "status", 400)
        return answer(status, type(error).__name__, cleaned(error.message), cleaned(error.remedy or ""))

    async def of_monailabel(_: Request, error: MONAILabelException) -> Response:
        text = cleaned(str(error.msg))
        missing = "not found" in text.lower() or "there is no" in text.lower()
        return answer(404 if missing else 400, error.error.value, text, "see GET /info/")

    async def of_http(_: Request, error: StarletteHTTPException) -> Response:
        if isinstance(error, Refused):
            return error.response()
        if error.status_code >= 500:
            logger.warning("status %s: %s", error.status_code, error.detail)
        return answer(error.status_code, "HTTPError", cleaned(str(error.detail)), headers=error.headers)

    async def of_values(_: Request, error: RequestValidationError) -> Response:
        where = "; ".join(f"{_place(one)}: {one.get('msg', 'wrong')}" for one in error.errors()[:5])
        return answer(422, "InvalidRequest", where, "see GET /openapi.json")

    async def of_nobody(_: Request, __: Exception) -> Response:
        return answer(400, "Disconnected", "the client went away")  # nobody reads it

    async def of_us(_: Request, error: Exception) -> Response:
        mark = secrets.token_hex(4)
        logger.error("failure %s", mark, exc_info=error)
        return answer(500, "InternalError", f"the server failed; its log says why under {mark}", id=mark)

    handlers: dict[Any, Callable[..., Any]] = {
        SonoDistillError: of_ours,
        MONAILabelException: of_monailabel,
        StarletteHTTPException: of_http,
        RequestValidationError: of_values,
        ClientDisconnect: of_nobody,
        Exception: of_us,
    }
    for kind, handler in handlers.items():
        app.add_exception_handler(kind, handler)


def _place(one: dict[str, Any]) -> str:
    return ".".join(str(part)[:60] for part in one.get("loc", ()))


def cleaner(private: Iterable[Path]) -> Callable[[str], str]:
    """A function that cuts these folders, and those of the installation, out of what a client is told."""
    private = [*private, Path(tempfile.gettempdir()), Path(sys.prefix), Path(__file__).parents[2]]
    folders = {str(path) for given in private for path in (given, given.resolve()) if len(path.parts) > 1}
    ordered = sorted(folders, key=len, reverse=True)  # the longest first

    def cleaned(text: str) -> str:
        for folder in ordered:
            text = text.replace(folder + "/", "").replace(folder, "...")
        return text

    return cleaned

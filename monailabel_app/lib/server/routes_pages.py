"""Signing in, a page that lists the routes, and what a stock server has but this one refuses."""

from __future__ import annotations

import html
from typing import Annotated, Any

from fastapi import APIRouter, Depends, FastAPI, Request
from fastapi.responses import HTMLResponse
from starlette.datastructures import FormData

from lib.server.attempts import Failures
from lib.server.errors import Refused
from lib.server.limits import LIMITS, field, form_body
from lib.server.who import annotator_of
from sonodistill.annotate.server.tokens import Tokens

_EVERY = ["GET", "POST", "PUT", "DELETE"]
_REFUSED = {
    "/reload": ("a client does not restart the app", "restart the server"),
    "/logs/": ("logs are not for clients", "read the log file in the folder of work"),
    "/logs/{rest:path}": ("logs are not for clients", "read the log file in the folder of work"),
    "/infer/wsi/{model}": ("there are no whole slides here", "POST /infer/{model}"),
    "/infer/wsi_v2/{model}": ("there are no whole slides here", "POST /infer/{model}"),
    "/datastore/dataset": ("the studies are not sent as a whole", "POST /sonodistill/export"),
    "/docs": ("its page would load scripts of other sites", "see / and /openapi.json"),
}


def router(app: FastAPI, tokens: Tokens | None) -> APIRouter:
    """``/``, ``/auth``, and the refusals. Include it last but before what takes any path."""
    routes = APIRouter(include_in_schema=False)
    failures = Failures(LIMITS.failures)

    @routes.get("/")
    def index() -> HTMLResponse:
        rows = [
            (method.upper(), path, about.get("summary", ""))
            for path, methods in app.openapi()["paths"].items()
            for method, about in methods.items()
        ]
        cells = "".join(f"<tr>{''.join(f'<td>{html.escape(text)}</td>' for text in row)}</tr>" for row in rows)
        return HTMLResponse(_PAGE.replace("ROWS", cells))

    @routes.get("/auth/")
    @routes.get("/auth")
    def enabled() -> dict[str, Any]:
        return {"enabled": tokens is not None, "client_id": "sonodistill", "realm": ""}

    @routes.post("/auth/token")
    def sign_in(request: Request, form: Annotated[FormData, Depends(form_body)]) -> dict[str, Any]:
        """Stock clients ask for a name and a password, and send what they get: the token is the password."""
        if tokens is None:
            return {"access_token": None, "token_type": None}
        address = request.client.host if request.client else ""
        if not failures.may_try(address):
            raise Refused(429, "TooManyFailures", "too many wrong tokens", "wait a minute", {"Retry-After": "60"})
        token = field(form, "password")
        if not token or tokens.annotator(token) != field(form, "username"):
            failures.add(address)
            raise Refused(401, "Unauthorized", "no such annotator with this token")
        return {"access_token": token, "token_type": "Bearer"}

    @routes.get("/auth/token/valid")
    def valid(request: Request) -> dict[str, Any]:
        return {"username": annotator_of(request), "roles": []}

    for path, (detail, remedy) in _REFUSED.items():
        routes.add_api_route(path, _refusing(detail, remedy), methods=_EVERY)
    routes.add_api_route(
        "/model/{model}",
        _refusing("weights are not taken from clients", "start with --segmentation FILE, or train"),
        methods=["PUT", "DELETE"],
    )
    return routes


def _refusing(detail: str, remedy: str) -> Any:
    def refuse() -> None:
        raise Refused(403, "Refused", detail, remedy)

    return refuse


_PAGE = """<!doctype html><html lang="en"><meta charset="utf-8"><title>SonoDistill</title>
<style>body{font:15px sans-serif;margin:2em}td{padding:.2em 1em .2em 0;vertical-align:top}</style>
<h1>SonoDistill</h1><p>The annotation server runs. <a href="ohif/">Viewer</a> (with a PACS) ·
<a href="info/">Information</a> · <a href="openapi.json">OpenAPI</a></p><table>ROWS</table></html>"""

"""The OHIF viewer in MONAI Label's wheel, and the DICOMweb it reads from: searched and retrieved, never written."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from fastapi import APIRouter, Request
from fastapi.responses import FileResponse, RedirectResponse, Response, StreamingResponse
from starlette.exceptions import HTTPException
from starlette.staticfiles import StaticFiles

from lib.server.errors import Refused
from sonodistill.annotate.errors import UnreachableError
from sonodistill.annotate.remote.catalogue import WebCatalogue
from sonodistill.annotate.workbench import Workbench
from sonodistill.dicom.web import Client, WebError

_JSON = "application/dicom+json"
_OURS = Path(__file__).with_name("viewer_files")
_OUR_FILE = re.compile(r"sonodistill/([a-z]+\.js)|(app-config\.js)")
# Told here: what the system thinks of suffixes is not to be relied on, and browsers run no script of another type.
_TYPES = {".js": "text/javascript", ".css": "text/css", ".wasm": "application/wasm", ".json": "application/json"}
_TYPES |= {".html": "text/html", ".svg": "image/svg+xml", ".png": "image/png", ".ico": "image/x-icon"}
_FONTS = re.compile(rb"<link[^>]*https://fonts\.[^>]*>")

_UID = r"(?:0|[1-9][0-9]*)(?:\.(?:0|[1-9][0-9]*))+"
_PATH = re.compile(
    rf"studies(?:/(?P<study>{_UID})(?:/(?:instances|metadata|series(?:/{_UID}(?:/(?:metadata|instances(?:/{_UID}"
    r"(?:/(?:metadata|rendered|thumbnail|bulk(?:data)?(?:/[0-9A-Fa-f]+)+|frames/[0-9]+(?:,[0-9]+){0,99}(?:/rendered)?)"
    r")?)?))?)?))?)?"
)
_KEY = re.compile(r"[A-Za-z0-9.]{1,64}")
_PRINTABLE = re.compile(r"[\x20-\x7E]{0,256}")
_MAX_JSON = 64 << 20
_MAX_BYTES = 1 << 30
_RETRIEVE_URL = "00081190"


def router(workbench: Workbench) -> APIRouter:
    """``/ohif`` and, where the studies are on a DICOMweb server, ``/proxy/dicom``; in place of MONAI Label's own."""
    import monailabel

    routes = APIRouter(include_in_schema=False)
    catalogue = workbench.catalogue
    files = StaticFiles(directory=Path(monailabel.__file__).parent / "endpoints" / "static" / "ohif")

    @routes.get("/ohif")
    def start() -> Response:
        return RedirectResponse("/ohif/")

    @routes.get("/ohif/{path:path}")
    async def viewer(path: str, request: Request) -> Response:
        if found := _OUR_FILE.fullmatch(path):
            ours = _OURS / (found[1] or found[2])
            if ours.is_file():
                return FileResponse(ours, media_type=_TYPES[".js"])
        page = "." not in path.rpartition("/")[2]  # a place in the viewer, such as monai-label?StudyInstanceUIDs=...
        try:
            response = await files.get_response("index.html" if page else path, request.scope)
        except HTTPException as error:
            raise Refused(error.status_code, "UnknownFile", "the viewer has no such file") from None
        suffix = ".html" if page else Path(path).suffix
        if suffix == ".html" and isinstance(response, FileResponse):
            # It would ask another company for fonts.
            return Response(_FONTS.sub(b"", Path(response.path).read_bytes()), media_type="text/html")
        if response.status_code == 200:
            response.headers["content-type"] = _TYPES.get(suffix, "application/octet-stream")
        return response

    @routes.get("/proxy/dicom/{operation}/{path:path}")
    def proxy(operation: str, path: str, request: Request) -> Response:
        if operation not in ("qido", "wado") or not isinstance(catalogue, WebCatalogue):
            raise Refused(404, "UnknownPath", "nothing is served here", "start the server with a DICOMweb service")
        return Retrieval(catalogue, path, request).response()

    return routes


class Retrieval:
    """One question of the viewer, passed on with our credentials, and without its own.

    It may search the studies of the catalogue, and retrieve what is in them; anything else is refused.

    Args:
        catalogue: of the server.
        path: below the root of the service.
        request: of the viewer; its query and Accept header count.

    Errors: Refused; UnreachableError.
    """

    def __init__(self, catalogue: WebCatalogue, path: str, request: Request) -> None:
        found = _PATH.fullmatch(path)
        if found is None or len(path) > 1024:
            raise Refused(404, "UnknownPath", "that is no path of DICOMweb that the viewer needs")
        study = found["study"]
        if study is None:
            catalogue.refresh()
        elif not catalogue.has_study(study):
            raise Refused(404, "UnknownStudy", "the study is none of those that are annotated", "see /ohif/")
        self._catalogue, self._path, self._listing = catalogue, f"/{path}", study is None
        self._query = _query(request)
        if self._listing:
            self._query |= catalogue.query
        accept = request.headers.get("accept", "*/*")
        self._accept = accept if _PRINTABLE.fullmatch(accept) else "*/*"

    def response(self) -> Response:
        """The answer of the server: JSON whose links lead here, anything else as it comes."""
        with ExitStack() as stack:
            stack.enter_context(self._catalogue.waiting())
            client = stack.enter_context(self._catalogue.connected())
            try:
                found = stack.enter_context(client.get(self._path, accept=self._accept, query=self._query or None))
                if found.status == 204:
                    return Response(status_code=204)
                if found.status != 200:
                    raise _refusal(found.status)
                kind = found.headers.get("Content-Type", "application/octet-stream")
                if kind.partition(";")[0].strip().lower() in (_JSON, "application/json"):
                    items = found.json(_MAX_JSON)
                    return Response(json.dumps(self._cleaned(items, client)), media_type=_JSON)
            except WebError as error:
                raise UnreachableError(error.message, remedy="see whether the DICOMweb server runs") from None
            if found.length > _MAX_BYTES:
                raise Refused(502, "TooLargeError", f"the server sends more than {_MAX_BYTES} bytes")
            headers = {"Content-Length": str(found.length)} if found.length else {}
            pieces = _pieces(found, stack.pop_all())
            next(pieces)  # begun, so that it ends what it holds also when nobody reads it
            return StreamingResponse(pieces, headers=headers, media_type=kind)

    def _cleaned(self, items: Any, client: Client) -> Any:
        """The items, of studies that are listed, without addresses of the server."""
        if self._listing and isinstance(items, list):
            items = [item for item in items if isinstance(item, dict) and self._catalogue.has_study(_study_of(item))]
        return _relinked(items, client)


def _query(request: Request) -> dict[str, str]:
    query: dict[str, str] = {}
    for key, text in request.query_params.multi_items():
        if not _KEY.fullmatch(key) or len(text) > 256:
            raise Refused(400, "InvalidQuery", "that is no search of DICOMweb")
        query[key] = f"{query[key]},{text}" if key in query else text
    return query


def _study_of(item: dict[str, Any]) -> str:
    element = item.get("0020000D")
    values = element.get("Value") if isinstance(element, dict) else None
    return str(values[0]) if isinstance(values, list) and values else ""


def _refusal(status: int) -> Refused:
    if status == 404:
        return Refused(404, "UnknownPath", "the DICOMweb server has no such thing")
    if status in (401, 403):
        # Not passed on: a browser would ask its user for a password, and send it here.
        return Refused(502, "UnreachableError", "the DICOMweb server does not take our credentials")
    return Refused(502, "UnreachableError", f"the DICOMweb server answered {status}")


def _relinked(value: Any, client: Client) -> Any:
    """DICOM JSON whose bulk data are retrieved through us, or not at all."""
    if isinstance(value, list):
        return [_relinked(each, client) for each in value]
    if not isinstance(value, dict):
        return value
    kept = {key: _relinked(each, client) for key, each in value.items() if key not in (_RETRIEVE_URL, "BulkDataURI")}
    if isinstance(value.get("BulkDataURI"), str):
        path = (client.resolve(value["BulkDataURI"]) or "").removeprefix(f"{client.url}/")
        if _PATH.fullmatch(path):
            kept["BulkDataURI"] = f"/proxy/dicom/wado/{path}"
    return kept


def _pieces(response: Any, stack: ExitStack) -> Iterator[bytes]:
    """The body; its connection ends with it, also when the viewer goes away. It breaks off at the limit."""
    left = _MAX_BYTES
    with stack:
        yield b""
        while data := response.read():
            left -= len(data)
            if left < 0:
                raise UnreachableError("the server sends too much")
            yield data

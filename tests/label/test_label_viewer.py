"""What the viewer is served, and what it may ask of the DICOMweb server through us."""

from __future__ import annotations

import asyncio
import json
import re
import threading
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from urllib.parse import unquote

import pytest
from web_case import Handler, lying, url_of

pytest.importorskip("monailabel", reason="monailabel is not installed; `pip install sonodistill[label]`")

from asgi_case import Answer, import_lib

from sonodistill.annotate.errors import UnreachableError
from sonodistill.annotate.remote.catalogue import WebCatalogue

STUDY, SERIES, SOP = "1.2.3", "1.2.3.4", "1.2.3.4.5"
AT = f"/studies/{STUDY}/series/{SERIES}/instances/{SOP}"


def element(value: Any) -> dict[str, Any]:
    return {"vr": "UI", "Value": [value]}


class Pacs:
    """A DICOMweb server that remembers what it was asked, and whose answers can be set."""

    def __init__(self) -> None:
        self.headers: list[tuple[str, str | None, str | None]] = []
        self.url = ""
        self.frame = b"--b\r\nContent-Type: application/octet-stream\r\n\r\nabc\r\n--b--"
        self.status = 200

    def __call__(self, handler: Handler) -> None:
        path = handler.path.split("?")[0].removeprefix("/web")
        self.headers.append((handler.path, handler.headers.get("Authorization"), handler.headers.get("Accept")))
        study = {"0020000D": element(STUDY), "00081190": element(f"{self.url}/studies/{STUDY}")}
        other = {"0020000D": element("9.9.9")}
        instance = {"00080018": element(SOP), "00080016": element("1.2.840.10008.5.1.4.1.1.6.1")}
        bulk = {"00091001": {"vr": "OB", "BulkDataURI": f"{self.url}{AT}/bulk/00091001"}}
        away = {"00091002": {"vr": "OB", "BulkDataURI": "http://elsewhere.example/x"}}
        answers: dict[str, Any] = {
            "/studies": [study, other] if "limit=5" in handler.path else [study],
            f"/studies/{STUDY}/series": [{"0020000E": element(SERIES), "00080060": element("US")}],
            f"/studies/{STUDY}/series/{SERIES}/instances": [instance],
            f"{AT}/metadata": [{**study, **instance, **bulk, **away}],
        }
        if path == f"{AT}/frames/1":
            kind = 'multipart/related; type="application/octet-stream"; boundary=b'
            handler.reply(self.status, self.frame, kind, Set_Cookie="a=b", Location="http://elsewhere.example/")
        else:
            found = answers.get(path)
            handler.reply(404 if found is None else 200, json.dumps(found or []).encode())


@pytest.fixture
def served(tmp_path: Path) -> Iterator[tuple[Any, Pacs]]:
    """The app of the viewer alone, and the server behind it."""
    import_lib()
    from fastapi import FastAPI

    from lib.server import viewer
    from lib.server.errors import add_handlers

    pacs = Pacs()
    token = tmp_path / "token"
    token.write_text("ours")
    with lying(pacs) as server:
        pacs.url = f"{url_of(server)}/web"
        catalogue = WebCatalogue(pacs.url, tmp_path / "instances", token_file=token)
        app = FastAPI()
        add_handlers(app, lambda text: text)
        app.include_router(viewer.router(SimpleNamespace(catalogue=catalogue)))  # type: ignore[arg-type]
        pacs.headers.clear()
        yield app, pacs
        catalogue.close()


def ask(app: Any, method: str, path: str, **headers: str) -> Answer:
    """One request whose path is sent as it is written here."""
    answer, asked = Answer(), []
    path, _, query = path.partition("?")
    scope = {
        "type": "http",
        "asgi": {"version": "3.0"},
        "http_version": "1.1",
        "method": method,
        "scheme": "http",
        "path": unquote(path),
        "raw_path": path.encode(),
        "query_string": query.encode(),
        "root_path": "",
        "headers": [(key.encode(), value.encode("latin-1")) for key, value in {"host": "x", **headers}.items()],
        "client": ("127.0.0.1", 50000),
        "server": ("127.0.0.1", 8000),
        "state": {},
    }

    async def receive() -> dict[str, Any]:
        if asked:
            await asyncio.sleep(3600)
        asked.append(True)
        return {"type": "http.request", "body": b"", "more_body": False}

    async def send(message: dict[str, Any]) -> None:
        if message["type"] == "http.response.start":
            answer.status = message["status"]
            answer.headers = [(key.decode(), value.decode("latin-1")) for key, value in message["headers"]]
        else:
            answer.body += message.get("body", b"")

    asyncio.run(asyncio.wait_for(app(scope, receive, send), 60))
    return answer


def get(app: Any, path: str, **headers: str) -> Answer:
    return ask(app, "GET", path, **headers)


def test_the_viewer_s_files_are_served_with_types_that_browsers_run(served: tuple[Any, Pacs]) -> None:
    app, _ = served
    page = get(app, "/ohif/")
    assert page.status == 200 and page.header("content-type") == "text/html; charset=utf-8"
    assert b"app-config.js" in page.body and b"googleapis" not in page.body
    scripts = re.findall(rb'src="(/ohif/app\.bundle[^"]+)"', page.body)
    assert get(app, scripts[0].decode()).header("content-type") == "text/javascript"
    assert get(app, "/ohif/assets/favicon.ico").header("content-type") == "image/x-icon"  # a folder deep
    wasm = next(name.name for name in viewer_folder().glob("*.wasm"))
    assert get(app, f"/ohif/{wasm}").header("content-type") == "application/wasm"
    for place in ("/ohif/monai-label?StudyInstanceUIDs=1.2.3", "/ohif/viewer/dicomweb"):
        assert get(app, place).body == page.body
    assert get(app, "/ohif").status == 307


def viewer_folder() -> Path:
    import monailabel

    return Path(monailabel.__file__).parent / "endpoints" / "static" / "ohif"


def test_its_configuration_is_ours(served: tuple[Any, Pacs]) -> None:
    app, _ = served
    configuration = get(app, "/ohif/app-config.js")
    assert b"sonodistill/config.js" in configuration.body
    for name in ("config", "images", "labels", "panel", "png"):
        assert (get(app, f"/ohif/sonodistill/{name}.js").header("content-type") or "").startswith("text/javascript")


@pytest.mark.parametrize(
    "path",
    [
        "/ohif/../../../config.py",
        "/ohif/%2e%2e/%2e%2e/config.py",
        "/ohif/..%2f..%2f..%2fconfig.py",
        "/ohif//etc/passwd.txt",
        "/ohif/sonodistill/../viewer.py",
        "/ohif/no-such.js",
        "/ohif/a\x00.js",
    ],
)
def test_no_other_file_is_served(served: tuple[Any, Pacs], path: str) -> None:
    app, _ = served
    answer = get(app, path)
    assert answer.status == 404 and answer.json()["error"]


def test_searches_show_the_studies_of_the_catalogue_and_no_address_of_the_server(served: tuple[Any, Pacs]) -> None:
    app, pacs = served
    answer = get(app, "/proxy/dicom/qido/studies?limit=5&includefield=00081030&includefield=00080060")
    assert [item["0020000D"]["Value"] for item in answer.json()] == [[STUDY]]
    assert pacs.url not in answer.body.decode()
    asked = next(path for path, *_ in pacs.headers if "limit=5" in path)
    assert "ModalitiesInStudy=US" in asked and "includefield=00081030%2C00080060" in asked


def test_bulk_data_are_retrieved_through_us_or_not_at_all(served: tuple[Any, Pacs]) -> None:
    app, pacs = served
    (item,) = get(app, f"/proxy/dicom/wado{AT}/metadata").json()
    assert item["00091001"]["BulkDataURI"] == f"/proxy/dicom/wado{AT}/bulk/00091001"
    assert "BulkDataURI" not in item["00091002"] and pacs.url not in json.dumps(item)


def test_frames_come_as_they_are_with_our_credentials_and_nothing_else_of_either_side(
    served: tuple[Any, Pacs],
) -> None:
    app, pacs = served
    accept = 'multipart/related; type="application/octet-stream"; transfer-syntax="*"'
    answer = get(
        app, f"/proxy/dicom/wado{AT}/frames/1", accept=accept, authorization="Bearer theirs", cookie="secret=1"
    )
    assert answer.body == pacs.frame
    assert answer.header("content-type") == 'multipart/related; type="application/octet-stream"; boundary=b'
    assert answer.header("set-cookie") is None and answer.header("location") is None
    assert pacs.headers[-1] == (f"/web{AT}/frames/1", "Bearer ours", accept)


@pytest.mark.parametrize(
    "path",
    [
        "/studies/9.9.9/series",  # none of the catalogue's
        "/studies/1.2.3/../../instances",
        "/studies/1.2.3%2f..%2f..%2fsystem",
        "/system",
        "/instances",
        "/studies/1.2.3?url=http://elsewhere.example/&a/b=c",
        f"{AT}/frames/1/../2",
        f"{AT}/frames/" + ",".join(["1"] * 200),
        "//elsewhere.example/studies",
    ],
)
def test_what_the_viewer_does_not_need_is_not_passed_on(served: tuple[Any, Pacs], path: str) -> None:
    app, pacs = served
    assert get(app, f"/proxy/dicom/wado{path}").status in (400, 404)
    assert pacs.headers == []


def test_nothing_is_written_through_the_proxy(served: tuple[Any, Pacs]) -> None:
    app, pacs = served
    for method in ("POST", "PUT", "DELETE"):
        for operation in ("wado", "qido", "stow"):
            assert ask(app, method, f"/proxy/dicom/{operation}/studies").status in (404, 405)
    assert get(app, "/proxy/dicom/stow/studies").status == 404
    assert pacs.headers == []


@pytest.mark.parametrize(("theirs", "ours"), [(302, 502), (401, 502), (403, 502), (500, 502), (404, 404)])
def test_refusals_of_the_server_are_told_in_our_words(served: tuple[Any, Pacs], theirs: int, ours: int) -> None:
    app, pacs = served
    pacs.status = theirs
    answer = get(app, f"/proxy/dicom/wado{AT}/frames/1")
    assert answer.status == ours and answer.header("location") is None and answer.header("www-authenticate") is None
    assert answer.json()["detail"]


def test_a_server_that_is_gone_is_told(served: tuple[Any, Pacs], tmp_path: Path) -> None:
    import_lib()
    from fastapi import FastAPI

    from lib.server import viewer
    from lib.server.errors import add_handlers

    pacs = Pacs()
    with lying(pacs) as server:
        catalogue = WebCatalogue(f"{url_of(server)}/web", tmp_path / "others")
    app = FastAPI()
    add_handlers(app, lambda text: text)
    app.include_router(viewer.router(SimpleNamespace(catalogue=catalogue)))  # type: ignore[arg-type]
    answer = get(app, f"/proxy/dicom/wado{AT}/metadata")
    assert answer.status == 502 and answer.json()["error"] == "UnreachableError"
    catalogue.close()


def test_few_wait_for_a_server_that_stalls_and_no_answer_that_is_not_read_stays_open(
    tmp_path: Path, monkeypatch
) -> None:
    import_lib()
    from fastapi import FastAPI, Request

    from lib.server import viewer
    from lib.server.errors import add_handlers

    monkeypatch.setattr("sonodistill.annotate.remote.catalogue._AT_ONCE", 1)
    pacs, asked, go = Pacs(), threading.Event(), threading.Event()

    def stalling(handler: Handler) -> None:
        if handler.path.endswith("frames/1"):
            asked.set()
            go.wait(10)
        pacs(handler)

    frame, answers = f"/proxy/dicom/wado{AT}/frames/1", []
    with lying(stalling) as server:
        catalogue = WebCatalogue(f"{url_of(server)}/web", tmp_path / "instances")
        app = FastAPI()
        add_handlers(app, lambda text: text)
        app.include_router(viewer.router(SimpleNamespace(catalogue=catalogue)))  # type: ignore[arg-type]
        waits = threading.Thread(target=lambda: answers.append(get(app, frame)))
        waits.start()
        assert asked.wait(10)
        for refused in (get(app, frame), get(app, f"/proxy/dicom/wado{AT}/metadata")):
            assert refused.status == 502 and "too many" in refused.json()["detail"]
        with pytest.raises(UnreachableError, match="too many"):
            catalogue.file(catalogue.items()[0])
        go.set()
        waits.join(10)
        scope = {"type": "http", "headers": [], "query_string": b"", "method": "GET"}
        unread = viewer.Retrieval(catalogue, f"{AT[1:]}/frames/1", Request(scope)).response()
        assert get(app, frame).status == 502
        del unread
        assert [answers[0].status, get(app, frame).status] == [200, 200]
        catalogue.close()


def test_a_folder_of_studies_has_no_proxy() -> None:
    import_lib()
    from fastapi import FastAPI

    from lib.server import viewer
    from lib.server.errors import add_handlers

    app = FastAPI()
    add_handlers(app, lambda text: text)
    app.include_router(viewer.router(SimpleNamespace(catalogue=object())))  # type: ignore[arg-type]
    assert get(app, "/proxy/dicom/qido/studies").status == 404
    assert get(app, "/ohif/").status == 200

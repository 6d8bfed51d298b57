"""Who is served: from where, with which token, and how long a body may take."""

from __future__ import annotations

import base64
import io
import os
import threading
import time
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

pytest.importorskip("monailabel", reason="monailabel is not installed; `pip install sonodistill[label]`")

from asgi_case import AWAY, HERE, Gate, ask, import_lib
from fastapi import FastAPI, Request
from PIL import Image

from sonodistill.annotate.errors import ConflictError
from sonodistill.annotate.ids import FrameId
from sonodistill.annotate.server.tokens import Tokens
from sonodistill.annotate.workbench import Settings, Workbench
from sonodistill.errors import UnreadableFileError

ANNA, BEN = "a-token-of-anna-0123456789", "a-token-of-ben-0123456789"
TLS = {"scheme": "https", "client": AWAY, "server": ("192.0.2.1", 443)}


@pytest.fixture(scope="module", autouse=True)
def lib():
    import_lib()


@pytest.fixture
def tokens(tmp_path) -> Tokens:
    path = tmp_path / "tokens"
    path.write_text(f"# people\nanna:{ANNA}\nben:{BEN}\n")
    path.chmod(0o600)
    return Tokens(path)


def guarded(app=None, tokens=None, **limits):
    from lib.server.guard import Guard, Policy
    from lib.server.limits import Limits

    return Guard(app or echo(), Policy(tokens, frozenset({"label.example"}), Limits(**limits)))


def echo() -> FastAPI:
    from lib.server.errors import add_handlers, cleaner
    from lib.server.limits import json_body

    app = FastAPI()
    add_handlers(app, cleaner([Path("/srv/secret")]))

    @app.get("/")
    def who(request: Request):
        from lib.server.who import annotator_of

        return {"who": annotator_of(request, "somebody")}

    @app.post("/")
    async def size(request: Request):
        return {"bytes": len(await request.body())}

    @app.put("/session/")
    async def session(request: Request):
        return {"bytes": len(await request.body())}

    @app.post("/json")
    async def parsed(request: Request):
        return await json_body(request)

    @app.get("/ours")
    def ours():
        raise ConflictError("no /srv/secret/study here", path="/srv/secret/study", remedy="see /srv/secret/study/x")

    @app.get("/plain")
    def plain():
        raise UnreadableFileError("damaged", path="/srv/secret/patient.dcm")

    @app.get("/fault")
    def fault():
        raise RuntimeError("at /srv/secret/patient.dcm")

    @app.get("/late")
    def late():
        from fastapi.responses import StreamingResponse

        def parts():
            yield b"begun"
            raise RuntimeError("too late")

        return StreamingResponse(parts())

    @app.get("/open")
    def headers():
        from fastapi.responses import Response

        return Response("x", headers={"Cache-Control": "public"})

    return app


# From where


def test_a_client_of_this_machine_is_served():
    for address in ("127.0.0.1", "127.3.2.1", "::1", "::ffff:127.0.0.1"):
        assert ask(guarded(), client=(address, 1)).json() == {"who": "somebody"}


@pytest.mark.parametrize("client", [AWAY, ("10.0.0.1", 1), ("::ffff:10.0.0.1", 1), ("fe80::1", 1), ("", 0), None])
def test_a_client_of_another_machine_is_refused_without_tokens_whatever_it_says(client):
    for headers in ({}, {"X-Forwarded-For": "127.0.0.1"}, {"Authorization": f"Bearer {ANNA}"}, {"Host": "localhost"}):
        for scheme in ("http", "https"):
            answer = ask(guarded(), client=client, scheme=scheme, headers=headers)
            assert (answer.status, answer.json()["error"]) == (403, "RemoteClient")


def test_a_token_is_not_taken_from_another_machine_without_tls(tokens):
    answer = ask(guarded(tokens=tokens), client=AWAY, headers={"Authorization": f"Bearer {ANNA}"})
    assert (answer.status, answer.json()["error"]) == (403, "RemoteClient")


def test_with_tls_and_a_token_another_machine_is_served_and_known(tokens):
    answer = ask(guarded(tokens=tokens), headers={"Authorization": f"Bearer {ANNA}"}, **TLS)
    assert answer.json() == {"who": "anna"}
    basic = base64.b64encode(f"ben:{BEN}".encode()).decode()
    assert ask(guarded(tokens=tokens), headers={"Authorization": f"Basic {basic}"}, **TLS).json() == {"who": "ben"}


def test_where_there_are_tokens_this_machine_needs_one_too(tokens):
    assert ask(guarded(tokens=tokens)).status == 401
    assert ask(guarded(tokens=tokens), headers={"Authorization": f"Bearer {BEN}"}).json() == {"who": "ben"}


@pytest.mark.parametrize(
    "header",
    [
        "Bearer",
        "Bearer ",
        f"Bearer {ANNA}x",
        f"Bearer {ANNA[:-1]}",
        f"Token {ANNA}",
        ANNA,
        "Basic !!!",
        "Basic " + base64.b64encode(f"ben:{ANNA}".encode()).decode(),  # another's token
        "Basic " + base64.b64encode(b"\xff\xfe").decode(),
        "Bearer \xe4\xf6",
    ],
)
def test_a_wrong_token_is_refused_and_a_password_asked_for(tokens, header):
    answer = ask(guarded(tokens=tokens), headers={"Authorization": header}, **TLS)
    assert answer.status == 401 and answer.header("www-authenticate").startswith("Basic ")
    assert ANNA not in answer.body.decode() and BEN not in answer.body.decode()


def test_who_tries_many_tokens_has_to_wait_and_nobody_else(tokens):
    guard = guarded(tokens=tokens, failures=5)
    wrong = {"Authorization": "Bearer 0123456789abcdef"}
    states = [ask(guard, headers=wrong, **TLS).status for _ in range(7)]
    assert states == [401] * 5 + [429] * 2
    right = {"Authorization": f"Bearer {ANNA}"}
    assert ask(guard, headers=right, **TLS).status == 429
    assert ask(guard, headers=right, **{**TLS, "client": ("192.0.2.8", 1)}).status == 200


def test_failures_are_forgotten_after_a_minute_and_few_clients_are_remembered():
    from lib.server.attempts import Failures

    now = [0.0]
    failures = Failures(2, clients=3, clock=lambda: now[0])
    for _ in range(2):
        failures.add("2001:db8::1")
    assert not failures.may_try("2001:db8::ffff")  # of the same network
    assert failures.may_try("2001:db8:1::1")
    now[0] = 61.0
    assert failures.may_try("2001:db8::1")
    for number in range(10):
        failures.add(f"10.0.0.{number}")
    assert len(failures._times) == 3


# Under which name


def test_an_address_that_a_client_connected_to_is_a_name_of_the_server(tokens):
    key = {"Authorization": f"Bearer {ANNA}"}
    for host, status in (
        ("192.0.2.1", 200),
        ("192.0.2.1:443", 200),
        ("label.example", 200),
        ("LABEL.example:443", 200),
        ("192.0.2.9", 403),
        ("evil.example", 403),
    ):
        assert ask(guarded(tokens=tokens), headers={**key, "Host": host}, **TLS).status == status


def test_a_websocket_is_closed():
    import asyncio

    sent = []

    async def run():
        async def send(message):
            sent.append(message)

        await guarded()({"type": "websocket"}, None, send)

    asyncio.run(run())
    assert sent == [{"type": "websocket.close", "code": 1008}]


# How much, and how long


def test_a_body_is_bounded_by_what_it_says_and_by_what_it_is():
    guard = guarded(other_bytes=10)
    assert ask(guard, method="POST", body=[b"x" * 10]).json() == {"bytes": 10}
    for headers, body in (
        ({"Content-Length": "11"}, [b"x"]),
        ({"Content-Length": "-1"}, [b"x"]),
        ({"Content-Length": "9" * 40}, [b"x"]),
        ({}, [b"x" * 6, b"x" * 6, b"x" * 6]),
    ):
        for path in ("/", "/json"):
            answer = ask(guard, path, "POST", headers=headers, body=body)
            assert (answer.status, answer.json()["error"]) == (413, "TooLargeError")
            assert answer.header("connection") == "close"


def test_a_body_that_stalls_or_trickles_is_refused():
    began = time.monotonic()
    stalled = ask(guarded(idle_seconds=0.2), method="POST", body=[b"x", 15.0, b"x"])
    trickling = ask(guarded(body_seconds=0.3, bytes_per_second=1000), method="POST", body=[b"x", 0.05] * 200)
    assert (stalled.status, trickling.status) == (408, 408)
    assert time.monotonic() - began < 10
    steady = ask(guarded(body_seconds=0.1, bytes_per_second=1), method="POST", body=[b"xx", 0.15, b"xx", 0.15, b"x"])
    assert steady.json() == {"bytes": 5}


def test_only_so_many_large_uploads_are_taken_at_a_time():
    guard, gate = guarded(uploads=1), Gate()
    answers = []
    slow = threading.Thread(
        target=lambda: answers.append(ask(guard, "/session/", "PUT", body=[b"x", gate, b"x"])), daemon=True
    )
    slow.start()
    assert gate.reached.wait(10)
    assert ask(guard, "/session/", "PUT", body=[b"x"]).status == 503
    assert ask(guard).status == 200
    gate.go.set()
    slow.join(10)
    assert answers[0].json() == {"bytes": 2}
    assert ask(guard, "/session/", "PUT", body=[b"x"]).status == 200


def test_a_small_body_is_no_upload_that_others_wait_for():
    guard, gate = guarded(uploads=1), Gate()
    held = threading.Thread(target=ask, args=(guard, "/session/", "PUT"), kwargs={"body": [b"x", gate]}, daemon=True)
    held.start()
    assert gate.reached.wait(10)
    assert ask(guard, "/session/", "PUT", body=[b"x"], headers={"Content-Length": "1"}).status == 200
    large = {"Content-Length": str(2 << 20)}
    assert ask(guard, "/session/", "PUT", body=[bytes(2 << 20)], headers=large).status == 503
    gate.go.set()
    held.join(10)


def test_few_wait_for_a_model_so_that_labels_can_be_saved_meanwhile():
    from lib.server import routes_infer
    from lib.server.errors import add_handlers, cleaner
    from lib.server.limits import Limits

    go, begun = threading.Event(), threading.Semaphore(0)

    def infer(_):
        begun.release()
        go.wait(10)
        return {"params": {"done": True}}

    app = FastAPI()
    add_handlers(app, cleaner([]))
    app.include_router(routes_infer.router(SimpleNamespace(_infers={"slow": 1}, infer=infer), Limits(waiting=2)))
    path = "/infer/slow?image=a&output=json"
    answers = []
    threads = [threading.Thread(target=lambda: answers.append(ask(app, path, "POST").status)) for _ in range(2)]
    for thread in threads:
        thread.start()
        begun.acquire()
    assert ask(app, path, "POST").status == 503
    go.set()
    for thread in threads:
        thread.join(10)
    assert [*answers, ask(app, path, "POST").status] == [200, 200, 200]


# What is said of an error


def test_an_error_of_ours_has_its_status_and_names_no_folder():
    answer = ask(guarded(), "/ours")
    assert (answer.status, answer.json()["error"]) == (409, "ConflictError")
    assert answer.json()["detail"] == "no study here" and "/srv" not in answer.body.decode()
    plain = ask(guarded(), "/plain")
    assert (plain.status, plain.json()["detail"]) == (400, "damaged")
    assert "patient" not in plain.body.decode()


def test_a_fault_is_told_by_a_mark_that_is_in_the_log_with_its_trace(caplog):
    answer = ask(guarded(), "/fault")
    assert (answer.status, answer.json()["error"]) == (500, "InternalError")
    assert "secret" not in answer.body.decode() and "RuntimeError" not in answer.body.decode()
    logged = [record for record in caplog.records if answer.json()["id"] in record.getMessage()]
    assert len(logged) == 1 and logged[0].exc_info


def test_a_fault_after_the_answer_began_is_not_answered_twice():
    assert ask(guarded(), "/late").body == b"begun"


def test_an_error_of_monai_label_is_the_clients_and_not_the_servers():
    from monailabel.interfaces.exception import ImageNotFoundException, MONAILabelError, MONAILabelException

    from lib.server.errors import add_handlers, cleaner

    app = FastAPI()
    add_handlers(app, cleaner([]))

    @app.get("/{name}")
    def fail(name: str):
        if name == "image":
            raise ImageNotFoundException("Image x NOT Found")
        raise MONAILabelException(MONAILabelError.INVALID_INPUT, "no")

    assert ask(guarded(app), "/image").status == 404
    assert ask(guarded(app), "/other").json() == {"error": "INVALID_INPUT", "detail": "no", "remedy": "see GET /info/"}


def test_no_answer_is_kept_by_a_cache_whatever_its_route_says():
    assert ask(guarded(), "/open").header("cache-control") == "no-store"


# Labels under the name of a token


def test_a_label_is_kept_under_the_name_of_the_token_and_only_its_owner_takes_it_back(tokens, tmp_path):
    from lib.server import routes_frames
    from lib.server.errors import add_handlers, cleaner

    (tmp_path / "studies").mkdir()
    Image.fromarray(np.full((40, 50), 90, np.uint8)).save(tmp_path / "studies" / "one.png")
    bench = Workbench(Settings(str(tmp_path / "studies"), tmp_path / "work"))
    try:
        app = FastAPI()
        add_handlers(app, cleaner([]))
        app.include_router(routes_frames.router(bench))
        guard = guarded(app, tokens)
        path = f"/sonodistill/label/{bench.catalogue.items()[0].id}"
        with io.BytesIO() as file:
            Image.fromarray(np.ones((40, 50), np.uint8)).save(file, "PNG")
            mask = file.getvalue()

        def as_(token, method, query="", body=()):
            headers = {"Authorization": f"Bearer {token}", "Content-Type": "image/png"}
            return ask(guard, path + query, method, client=HERE, headers=headers, body=body)

        saved = as_(ANNA, "PUT", "?annotator=ben&status=accepted", [mask])
        assert (saved.status, saved.json()["annotator"]) == (200, "anna")
        assert as_(BEN, "DELETE", "?annotator=anna").status == 404
        assert as_(BEN, "PUT", "?expect_revision=0", [mask]).json()["annotator"] == "ben"
        assert as_(ANNA, "DELETE").status == 200
        assert {row.annotator for row in bench.labels.rows()} == {"ben"}
    finally:
        bench.close()


def test_a_tag_is_no_way_to_anothers_label(tokens, tmp_path):
    from lib.datastore import FrameDatastore
    from lib.server import routes_store
    from lib.server.errors import add_handlers, cleaner

    (tmp_path / "studies").mkdir()
    Image.fromarray(np.full((40, 50), 90, np.uint8)).save(tmp_path / "one.png")
    Image.fromarray(np.ones((40, 50), np.uint8)).save(tmp_path / "mask.png")
    bench = Workbench(Settings(str(tmp_path / "studies"), tmp_path / "work"))
    store = FrameDatastore(bench)
    try:
        app = FastAPI()
        add_handlers(app, cleaner([]))
        own = SimpleNamespace(datastore=lambda: store, on_save_label=lambda *_: None)
        app.include_router(routes_store.router(own))
        guard = guarded(app, tokens)
        image = store.add_image("one", str(tmp_path / "one.png"), {})

        def as_(token, method, query, mask=True):
            line = '--x\r\nContent-Disposition: form-data; name="label"; filename="a.png"\r\n\r\n'
            body = line.encode() + (tmp_path / "mask.png").read_bytes() + b"\r\n--x--\r\n"
            headers = {"Authorization": f"Bearer {token}", "Content-Type": "multipart/form-data; boundary=x"}
            return ask(guard, query, method, headers=headers, body=[body] if mask else ()).status

        assert as_(ANNA, "PUT", f"/datastore/label?image={image}&tag=final") == 200
        assert as_(BEN, "PUT", f"/datastore/label?image={image}&tag=anna") == 403
        assert as_(BEN, "DELETE", f"/datastore/label?id={image}&tag=anna", mask=False) == 403
        assert as_(BEN, "DELETE", f"/datastore/image?id={image}", mask=False) == 403
        assert [(row.annotator, row.status.value) for row in bench.labels.rows()] == [("anna", "accepted")]
        assert as_(BEN, "PUT", f"/datastore/label?image={image}&tag=ben") == 200
        assert as_(ANNA, "DELETE", f"/datastore/image?id={image}", mask=False) == 403
        bench.labels.remove(FrameId(image, 0), "ben")
        assert as_(ANNA, "DELETE", f"/datastore/image?id={image}", mask=False) == 200
    finally:
        store.close()
        bench.close()


def test_copies_of_labels_that_a_kill_left_are_removed_at_the_next_start(tmp_path):
    from lib.server import routes_models

    for name in (".export-old", "sonodistill-old", ".export-now", "models"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "labels.zip").write_bytes(b"x")
        if name != ".export-now":
            os.utime(tmp_path / name, (1, 1))
    routes_models.router(SimpleNamespace(settings=SimpleNamespace(work=tmp_path)))
    assert {path.name for path in tmp_path.iterdir()} == {".export-now", "models"}


# Stock clients


def test_a_stock_client_signs_in_with_its_token_as_the_password(tokens):
    import socket

    import uvicorn
    from monailabel.client.client import MONAILabelClient, MONAILabelClientException

    from lib.server import routes_pages

    app = echo()
    app.include_router(routes_pages.router(app, tokens))
    with socket.socket() as listening:
        listening.bind(("127.0.0.1", 0))
        server = uvicorn.Server(uvicorn.Config(guarded(app, tokens), log_level="warning", lifespan="off"))
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listening]}, daemon=True)
        thread.start()
        try:
            until = time.monotonic() + 20
            while not server.started and time.monotonic() < until:
                time.sleep(0.05)
            client = MONAILabelClient(f"http://127.0.0.1:{listening.getsockname()[1]}")
            assert client.auth_enabled()
            with pytest.raises(MONAILabelClientException):
                client.auth_token("ben", ANNA)
            assert not client.auth_valid_token()
            client.update_auth(client.auth_token("anna", ANNA))
            assert client.auth_valid_token()
        finally:
            server.should_exit = True
            thread.join(20)

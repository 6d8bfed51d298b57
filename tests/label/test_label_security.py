"""What a server refuses: from whom, under which name, how much, and which ids, files and parameters."""

from __future__ import annotations

import gzip
import http.client
import io
import json
import pickle
import re
import socket
import struct
import time
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from urllib.parse import quote, urlsplit

import numpy as np
import pytest

pytest.importorskip("monailabel", reason="monailabel is not installed; `pip install sonodistill[label]`")

from PIL import Image

ESCAPES = [
    "../x",
    "..",
    "/etc/passwd",
    "a/../../b",
    "..%2f..%2fetc%2fpasswd",
    "%2e%2e/%2e%2e/x",
    "a%00b",
    "x" * 300,
    "C:\\x",
    "~root",
    ".hidden",
    "%0d%0aX-Evil:1",
    "\N{FULLWIDTH FULL STOP}\N{FULLWIDTH FULL STOP}",
]
INSIDE = re.compile(r'Traceback|File "|site-packages|\.py"|<html|sqlite3|line \d+')


def png(shape=(240, 320), value=0) -> bytes:
    with io.BytesIO() as file:
        Image.fromarray(np.full(shape, value, np.uint8)).save(file, "PNG")
        return file.getvalue()


def noise() -> bytes:
    with io.BytesIO() as file:
        Image.fromarray(np.random.default_rng(0).integers(0, 2, (240, 320), np.uint8)).save(file, "PNG")
        return file.getvalue()


def raw(server, method, target, headers=None, body=None) -> tuple[int, dict[str, str], bytes]:
    """A request whose target is sent as it is; no client of ours would."""
    parts = urlsplit(server.url)
    connection = http.client.HTTPConnection(parts.hostname, parts.port, timeout=30)
    try:
        connection.putrequest(method, target, skip_host="Host" in (headers or {}), skip_accept_encoding=True)
        for name, value in (headers or {}).items():
            if value is not None:
                connection.putheader(name, value)
        if body is not None:
            connection.putheader("Content-Length", str(len(body)))
        connection.endheaders(body)
        response = connection.getresponse()
        return response.status, {key.lower(): value for key, value in response.getheaders()}, response.read()
    finally:
        connection.close()


def refused(server, status, headers, body, among=range(400, 500)):
    """It is a refusal as JSON, which says nothing of the inside of the server."""
    text = body.decode(errors="replace")
    assert status in among, (status, text[:500])
    said = json.loads(text)
    assert set(said) >= {"error", "detail", "remedy"}
    assert not INSIDE.search(text), text
    for folder in (server.studies, server.work, server.work.parent):
        assert str(folder) not in text
    assert not any(name.startswith("access-control-") for name in headers)
    assert headers["x-content-type-options"] == "nosniff"
    return said


def refused_request(server, method, path, among=range(400, 500), **more):
    response = server.request(method, path, **more)
    headers = {key.lower(): value for key, value in response.headers.items()}
    return refused(server, response.status_code, headers, response.content, among)


@contextmanager
def nothing_saved(server) -> Iterator[None]:
    def state():
        files = sorted(
            str(path) for path in server.work.parent.rglob("*") if path.is_file() and ".sqlite" not in path.name
        )
        outside = [path for path in files if not path.startswith((f"{server.work}/", f"{server.work.parent}/server-"))]
        return server.get("/sonodistill/progress")["revision"], outside

    before = state()
    yield
    assert state() == before


def frame(server) -> str:
    return f"{server.item('cine')}.f00003"


# Ids, names and tags


@pytest.mark.parametrize("id", ESCAPES, ids=range(len(ESCAPES)))
def test_an_id_that_is_none_is_refused_wherever_one_is_taken(server, id):
    body = b'{"positive": [[1, 1]], "number": 1, "count": 1, "status": "accepted"}'
    form = b'--b\r\nContent-Disposition: form-data; name="label"; filename="m.png"\r\n\r\n' + png() + b"\r\n--b--\r\n"
    kind, multipart = {"Content-Type": "application/json"}, {"Content-Type": "multipart/form-data; boundary=b"}
    given, part = (
        quote(id, safe="%"),
        quote(id, safe="%/~\\") if id.isascii() and "\\" not in id else quote(id, safe=""),
    )
    part = part.replace("\\", "%5C")
    with nothing_saved(server):
        for method, target, headers, sent in (
            ("GET", f"/sonodistill/items/{part}", {}, None),
            ("GET", f"/sonodistill/frame/{part}.png", {}, None),
            ("GET", f"/sonodistill/label/{part}", {}, None),
            ("PUT", f"/sonodistill/label/{part}", {"Content-Type": "image/png"}, png()),
            ("DELETE", f"/sonodistill/label/{part}", {}, None),
            ("POST", f"/sonodistill/label/{part}/status", kind, body),
            ("POST", f"/sonodistill/click/{part}", kind, body),
            ("POST", f"/sonodistill/propagate/{part}", kind, body),
            ("POST", f"/sonodistill/models/{part}/promote", kind, body),
            ("GET", f"/model/{part}", {}, None),
            ("GET", f"/model/info/{part}", {}, None),
            ("GET", f"/session/{part}", {}, None),
            ("DELETE", f"/session/{part}", {}, None),
            ("POST", f"/activelearning/{part}", kind, b"{}"),
            ("POST", f"/train/{part}", kind, b"{}"),
            ("GET", f"/datastore/image?image={given}", {}, None),
            ("GET", f"/datastore/image/info?image={given}", {}, None),
            ("GET", f"/datastore/label?label={given}&tag=final", {}, None),
            ("GET", f"/datastore/label?label={frame(server)}&tag={given}", {}, None),
            ("DELETE", f"/datastore/label?id={frame(server)}&tag={given}", {}, None),
            ("DELETE", f"/datastore/image?id={given}", {}, None),
            ("PUT", f"/datastore/label?image={given}", multipart, form),
            ("PUT", f"/datastore/label?image={frame(server)}&tag={given}", multipart, form),
            ("PUT", f"/datastore/image?image={given}", multipart, form.replace(b'"label"', b'"file"')),
            ("POST", f"/infer/segmentation?image={given}", {}, None),
            ("POST", f"/infer/segmentation?session_id={given}", {}, None),
            ("PUT", f"/sonodistill/label/{frame(server)}?annotator={given}", {"Content-Type": "image/png"}, png()),
            ("GET", f"/sonodistill/label/{frame(server)}?annotator={given}", {}, None),
        ):
            status, answered, content = raw(server, method, target, headers, sent)
            if status in (301, 307, 308):  # without its slash it would be another route, of this server
                assert urlsplit(answered["location"]).netloc in ("", urlsplit(server.url).netloc)
                continue
            if "/model/" in target and status == 200:
                pytest.fail(f"{target} was served")
            refused(server, status, answered, content)


def test_an_id_that_nothing_has_is_not_found_and_said_so(server):
    for method, path in (
        ("GET", "/sonodistill/items/nothing"),
        ("GET", "/sonodistill/frame/nothing.png"),
        ("GET", f"/sonodistill/frame/{server.item('cine')}.f00030.png"),
        ("GET", f"/sonodistill/label/{frame(server)}"),
        ("GET", "/datastore/image?image=nothing"),
        ("GET", f"/datastore/label?label={frame(server)}&tag=nobody"),
        ("POST", "/infer/segmentation?image=nothing"),
        ("POST", f"/infer/nothing?image={frame(server)}"),
        ("POST", "/activelearning/nothing"),
        ("POST", "/train/nothing"),
        ("GET", "/model/nothing"),
        ("GET", "/session/00000000-0000-0000-0000-000000000000"),
        ("POST", "/sonodistill/models/nothing/rollback"),
        ("GET", "/nothing"),
    ):
        said = refused_request(server, method, path, among=[404])
        assert said["detail"]


def test_a_file_of_the_current_folder_of_the_server_is_no_image(server):
    for name in ("main.py", "README.md", "setup.py", "proc"):
        refused_request(server, "POST", f"/infer/segmentation?image={name}", among=[404])


# Sites


@pytest.mark.parametrize(
    "host", ["evil.example", "evil.example:80", "127.0.0.1.evil.example", "192.0.2.1", "[2001:db8::1]"]
)
def test_another_name_of_this_server_is_refused(server, host):
    said = refused(server, *raw(server, "GET", "/info/", {"Host": host}), among=[403])
    assert said["error"] == "WrongHost"


@pytest.mark.parametrize("host", ["localhost", "LOCALHOST:1", "127.0.0.1", "127.9.9.9:80", "[::1]:8000", "localhost."])
def test_every_name_of_the_loopback_interface_is_served(server, host):
    assert raw(server, "GET", "/info/", {"Host": host})[0] == 200


def test_a_request_that_names_no_host_or_two_is_refused(server):
    parts = urlsplit(server.url)
    for lines in (b"", b"Host: localhost\r\nHost: localhost\r\n", b"Host: \r\n", b"Host: a:b:c\r\n"):
        with socket.create_connection((parts.hostname, parts.port), 10) as connection:
            connection.sendall(b"GET /info/ HTTP/1.0\r\n" + lines + b"\r\n")
            assert connection.recv(4096).split(b" ", 2)[1] in (b"400", b"403")


@pytest.mark.parametrize("origin", ["http://evil.example", "null", "https://127.0.0.1", "http://localhost:1", "", "x"])
def test_a_page_of_another_site_is_refused_and_told_of_no_permission(server, origin):
    for method, path in (("GET", "/info/"), ("POST", "/sonodistill/next"), ("OPTIONS", "/info/")):
        headers = {"Origin": origin, "Access-Control-Request-Method": "PUT"}
        said = refused(server, *raw(server, method, path, headers), among=[403])
        assert said["error"] == "ForeignOrigin"


def test_a_request_that_a_browser_says_comes_from_elsewhere_is_refused_but_not_a_link(server):
    said = refused(server, *raw(server, "GET", "/info/", {"Sec-Fetch-Site": "cross-site"}), among=[403])
    assert said["error"] == "ForeignOrigin"
    assert raw(server, "GET", "/", {"Sec-Fetch-Site": "cross-site", "Sec-Fetch-Mode": "navigate"})[0] == 200


def test_the_own_pages_are_served_and_no_permission_is_given_to_others(server):
    status, headers, _ = raw(server, "GET", "/info/", {"Origin": server.url, "Sec-Fetch-Site": "same-origin"})
    assert status == 200
    assert not any(name.startswith("access-control-") for name in headers)


def test_every_answer_says_how_a_browser_is_to_treat_it(server):
    for path in ("/", "/info/", "/ohif/", "/nothing"):
        headers = server.request("GET", path).headers
        assert headers["X-Content-Type-Options"] == "nosniff"
        assert "frame-ancestors 'self'" in headers["Content-Security-Policy"]
        assert headers["Cross-Origin-Resource-Policy"] == "same-origin"
    assert server.request("GET", "/info/").headers["Cache-Control"] == "no-store"
    assert "http" not in re.sub(r"http://www.w3.org\S*", "", server.request("GET", "/").text)


# Sizes


def test_a_body_that_says_it_is_too_large_is_refused_before_it_comes(server):
    for method, path, limit in (
        ("POST", "/sonodistill/next", 1 << 20),
        ("PUT", f"/sonodistill/label/{frame(server)}", 64 << 20),
        ("PUT", f"/datastore/label?image={frame(server)}", 64 << 20),
        ("PUT", "/datastore/image", 512 << 20),
        ("PUT", "/session/", 512 << 20),
    ):
        headers = {"Content-Length": str(limit + 1), "Content-Type": "application/json"}
        refused(server, *raw(server, method, path, headers), among=[413])


def test_a_body_that_grows_too_large_is_refused_while_it_comes(server):
    parts = urlsplit(server.url)
    with socket.create_connection((parts.hostname, parts.port), 30) as connection:
        connection.sendall(
            b"POST /sonodistill/next HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
            b"Transfer-Encoding: chunked\r\n\r\n"
        )
        chunk = b"10000\r\n" + b"x" * 0x10000 + b"\r\n"
        try:
            for _ in range(64):  # 4 MB
                connection.sendall(chunk)
        except OSError:
            pass
        assert connection.recv(4096).startswith(b"HTTP/1.1 413")


def test_a_body_that_ends_too_soon_harms_nobody(server):
    parts = urlsplit(server.url)
    for path in ("/sonodistill/next", f"/sonodistill/label/{frame(server)}"):
        with socket.create_connection((parts.hostname, parts.port), 10) as connection:
            head = f"PUT {path} HTTP/1.1\r\nHost: localhost\r\nContent-Type: image/png\r\n"
            connection.sendall(f"{head}Content-Length: 99\r\n\r\n{{".encode())
    assert server.get("/info/")["name"]
    assert "Traceback" not in server.tail(2000)


def test_a_url_that_is_too_long_is_refused(server):
    refused_request(server, "GET", f"/info/?x={'y' * 9000}", among=[414])
    refused_request(server, "GET", f"/sonodistill/items/{'y' * 3000}", among=[414])


@pytest.mark.parametrize(
    "text",
    ["[1]", '"x"', "{", "nul", "{'a': 1}", '{"a": NaN}', '{"a": ' * 5000, '{"a":' * 40 + "1" + "}" * 40, b"\xff\xfe"],
)
def test_json_that_is_none_or_too_deep_is_refused(server, text):
    headers = {"Content-Type": "application/json"}
    refused_request(server, "POST", "/sonodistill/next", among=[400], data=text, headers=headers)
    if isinstance(text, str):
        refused_request(server, "POST", f"/infer/segmentation?image={frame(server)}", files={"params": (None, text)})


def test_json_of_too_many_values_is_refused(server):
    values = json.dumps({"exclude": [0] * 200_000})
    refused_request(server, "POST", "/sonodistill/next", data=values, headers={"Content-Type": "application/json"})


def test_json_that_would_take_long_to_parse_keeps_nobody_waiting(server):
    body = b'{"positive":[' + b"[]," * (10 << 20) + b"[]]}"
    headers = {"Content-Type": "application/json"}
    refused_request(server, "POST", f"/sonodistill/click/{frame(server)}", among=[400], data=body, headers=headers)
    began = time.monotonic()
    server.get("/auth/")
    assert time.monotonic() - began < 2


def test_half_a_character_does_not_end_every_list_that_holds_it(server):
    with nothing_saved(server):
        for path, name in ((f"image/info?image={frame(server)}", "info"), (f"label?image={frame(server)}", "params")):
            files = {name: (None, '{"note": "\\ud800"}'), "label": ("a.png", png())}
            refused_request(server, "PUT", f"/datastore/{path}", among=[400], files=files)
        json_text = '{"strategy": "\\udfff"}'
        headers = {"Content-Type": "application/json"}
        refused_request(server, "POST", "/sonodistill/next", among=[400], data=json_text, headers=headers)
    server.get("/datastore/", output="all")


@pytest.mark.parametrize(
    "params",
    [
        '{"foreground": [[10, 10, 1e999]]}',
        '{"foreground": "[[10, 10, NaN]]"}',
        json.dumps({"foreground": "[" * 50_000}),
        '{"roi": [1, 2, 3, 4, 1e999, 2]}',
        '{"roi": [1, 2, 3, 4, 1%s, 2]}' % ("0" * 400),
    ],
)
def test_numbers_that_are_none_are_refused(server, params):
    files = {"params": (None, params)}
    refused_request(server, "POST", f"/infer/interactive?image={server.item('cine')}", among=[422], files=files)


def test_a_confidence_beyond_all_numbers_is_refused(server):
    label = {"data": png(value=1), "headers": {"Content-Type": "image/png"}}
    where = f"{server.item('cine')}.f00017"
    server.ask("PUT", f"/sonodistill/label/{where}?annotator=tim", **label)
    wanted = {"least_confidence": 10**400, "annotator": "tim"}
    refused_request(server, "POST", f"/sonodistill/propagate/{where}", among=[422], json=wanted)


def test_a_body_of_another_type_is_refused(server):
    for kind in ("text/plain", "application/x-www-form-urlencoded"):
        headers = {"Content-Type": kind}
        refused_request(server, "POST", "/sonodistill/next", among=[415], data="{}", headers=headers)
    refused_request(server, "PUT", f"/sonodistill/label/{frame(server)}", among=[415], data="x", headers=headers)
    refused_request(server, "PUT", f"/datastore/label?image={frame(server)}", among=[415], json={})


def test_a_form_of_too_many_parts_or_too_large_a_field_is_refused(server):
    path = f"/infer/segmentation?image={frame(server)}"
    for files in (
        [(f"f{number}", (f"{number}.png", b"x")) for number in range(30)],
        [(f"f{number}", (None, "x")) for number in range(30)],
        [("params", (None, "x" * (2 << 20)))],
        [("params", (None, "{}")), ("params", (None, "{}"))],
    ):
        refused_request(server, "POST", path, files=files)


def test_a_damaged_form_is_refused(server):
    path = f"/datastore/label?image={frame(server)}"
    for kind, body in (
        ("multipart/form-data", b"x"),
        ("multipart/form-data; boundary=b", b"--c\r\n\r\nx"),
        ("multipart/form-data; boundary=b", b"--b\r\nContent-Disposition: form-data\r\n\r\nx\r\n--b--"),
        ("multipart/form-data; boundary=" + "b" * 5000, b"x"),
    ):
        refused_request(server, "PUT", path, data=body, headers={"Content-Type": kind})


# Labels and files


@pytest.mark.parametrize("name", ["label.nii.gz", "label.nrrd", "label.png", "label.bin", "label", "label.html"])
def test_an_error_page_is_no_label(server, name):
    page = b"<html><body>502 Bad Gateway</body></html>"
    with nothing_saved(server):
        for image in (frame(server), server.item("cine"), server.item("volume")):
            refused_request(server, "PUT", f"/datastore/label?image={image}", files={"label": (name, page)})
        refused_request(
            server, "PUT", f"/sonodistill/label/{frame(server)}", files={"label": (name, page)}, among=[422]
        )


def test_a_mask_of_another_size_type_or_number_is_refused(server):
    headers = {"Content-Type": "image/png"}
    with io.BytesIO() as file:
        Image.fromarray(np.zeros((240, 320, 3), np.uint8)).save(file, "PNG")
        colour = file.getvalue()
    with nothing_saved(server):
        for mask in (png((10, 10)), png(value=9), colour, noise()[:2000], b"", pickle.dumps({}), b"\x89PNG\r\n\x1a\n"):
            for path in (f"/sonodistill/label/{frame(server)}", f"/sonodistill/label/{server.item('still')}"):
                refused_request(server, "PUT", path, among=[422], data=mask, headers=headers)


def test_a_png_that_unpacks_to_much_more_is_refused_unread(server):
    with io.BytesIO() as file:
        Image.new("1", (9000, 9000)).save(file, "PNG")
        bomb = file.getvalue()
    said = refused_request(server, "PUT", f"/sonodistill/label/{frame(server)}", files={"label": ("m.png", bomb)})
    assert "240 x 320" in said["detail"]


def test_a_volume_of_labels_that_says_it_is_huge_is_refused_unread(server):
    header = bytearray(352)
    struct.pack_into("<i8h", header, 0, 348, 0, 0, 0, 0, 0, 0, 0, 0)
    struct.pack_into("<8h", header, 40, 3, 32_000, 32_000, 200, 1, 1, 1, 1)
    struct.pack_into("<2h", header, 70, 2, 8)  # uint8
    struct.pack_into("<8f", header, 76, 1, 1, 1, 1, 1, 1, 1, 1)
    struct.pack_into("<f", header, 108, 352.0)
    header[344:348] = b"n+1\0"
    packed = gzip.compress(bytes(header) + bytes(1 << 20))
    nrrd = b"NRRD0004\ntype: uint8\ndimension: 3\nsizes: 32000 32000 200\nencoding: gzip\n\n" + gzip.compress(bytes(99))
    with nothing_saved(server):
        for image in (server.item("cine"), server.item("volume"), frame(server)):
            for name, content in (("l.nii.gz", packed), ("l.nrrd", nrrd)):
                refused_request(server, "PUT", f"/datastore/label?image={image}", files={"label": (name, content)})


def test_only_people_accept_and_the_model_signs_nothing(server):
    path, headers = f"/sonodistill/label/{frame(server)}", {"Content-Type": "image/png"}
    with nothing_saved(server):
        refused_request(server, "PUT", f"{path}?annotator=model&status=accepted", data=png(), headers=headers)
        refused_request(server, "POST", f"{path}/status", json={"status": "predicted"}, among=[422])
        refused_request(server, "POST", f"{path}/status", json={"status": ["accepted"]}, among=[422])
        refused_request(server, "PUT", f"{path}?status=final", data=png(), headers=headers, among=[422])


@pytest.mark.parametrize("name", ["x.pt", "x.pth", "x.pkl", "x.exe", "x", "../../x", "x.png\0.sh", "x." + "y" * 300])
def test_an_upload_under_a_strange_name_is_refused_or_put_where_uploads_are(server, name):
    with nothing_saved(server):
        for method, path, part in (
            ("PUT", "/datastore/image", "file"),
            ("PUT", "/datastore/image?image=fine", "file"),
            ("PUT", "/session/", "files"),
            ("POST", "/infer/segmentation", "file"),
        ):
            refused_request(server, method, path, files={part: (name, pickle.dumps({"a": 1}))})


def test_an_upload_that_is_no_image_is_refused(server):
    with nothing_saved(server):
        for name in ("x.png", "x.dcm", "x.nii.gz", "x.mp4"):
            for content in (b"", b"<html>", pickle.dumps({})):
                refused_request(server, "PUT", "/datastore/image", files={"file": (name, content)})


def test_an_archive_of_labels_that_leaves_its_folder_is_refused(server):
    for name in ("../../evil.json", "/tmp/evil.json", "a/../../evil.json", "..\\evil.json"):
        with io.BytesIO() as file:
            with zipfile.ZipFile(file, "w") as archive:
                archive.writestr(name, "{}")
            packed = file.getvalue()
        with nothing_saved(server):
            refused_request(server, "POST", "/sonodistill/import", files={"file": ("x.zip", packed)})
    assert not list(server.work.glob(".import*")) and not list(server.work.glob("sonodistill-*"))


# What a client may not do at all


@pytest.mark.parametrize(
    "method, path",
    [
        ("POST", "/reload"),
        ("GET", "/reload"),
        ("GET", "/logs/"),
        ("GET", "/logs/gpu"),
        ("GET", "/docs"),
        ("PUT", "/model/segmentation"),
        ("DELETE", "/model/segmentation"),
        ("POST", "/infer/wsi/segmentation"),
        ("POST", "/infer/wsi_v2/segmentation"),
        ("GET", "/datastore/dataset"),
        ("GET", "/datastore/?output=train"),
        ("PUT", "/session/?uncompress=true"),
    ],
)
def test_what_a_stock_server_would_do_for_anybody_is_refused(server, method, path):
    more = {"files": {"files": ("x.zip", b"x")}} if "session" in path else {}
    assert refused_request(server, method, path, among=[403], **more)["remedy"]


def test_the_proxy_leads_nowhere_but_to_a_dicomweb_server(server):
    for method in ("GET", "POST", "PUT", "DELETE"):
        for path in ("/proxy/dicom/wado/studies", "/proxy/dicom/stow/studies", "/proxy/dicom/http://127.0.0.1:22/"):
            refused_request(server, method, path, among=[403, 404, 405])


@pytest.mark.parametrize(
    "params",
    [
        {"image": "/etc/passwd"},
        {"model": "other"},
        {"label": "/etc/passwd"},
        {"session": {"image": "/etc/passwd"}},
        {"model_filename": "x.pt"},
        {"bundle_path": "x"},
        {"result_extension": ".nii/../../x"},
        {"result_extension": ".pkl"},
        {"result_dtype": "object"},
        {"device": "cuda:0; rm"},
        {"device": 1},
        {"anything": "/etc/passwd"},
        {"anything": "..\\x"},
        {"../x": 1},
    ],
    ids=str,
)
def test_a_parameter_that_would_choose_a_file_or_a_program_is_refused(server, params):
    response = server.infer("segmentation", frame(server), params)
    refused(server, response.status_code, {k.lower(): v for k, v in response.headers.items()}, response.content, [422])


def test_sessions_are_limited_in_number_and_say_nothing_of_where_they_lie(server):
    made = []
    try:
        for _ in range(40):
            response = server.request("PUT", "/session/", files={"files": ("x.png", png())})
            if response.status_code != 200:
                break
            assert str(server.work) not in response.text
            made.append(response.json()["session_id"])
        assert 0 < len(made) < 40 and response.status_code == 429
        assert str(server.work) not in server.ask("GET", f"/session/{made[0]}").text
    finally:
        for id in made:
            server.ask("DELETE", f"/session/{id}")
    assert server.request("PUT", "/session/", files={"files": ("x.png", png())}).status_code == 200


def test_no_list_and_no_error_names_a_folder_of_the_server(server):
    for path in (
        "/info/",
        "/datastore/?output=all",
        "/datastore/",
        f"/datastore/image/info?image={server.item('cine')}",
        "/sonodistill/items",
        "/sonodistill/models",
        "/sonodistill/progress",
        "/sonodistill/train",
        "/openapi.json",
        "/model/info/segmentation",
    ):
        text = server.ask("GET", path).text
        assert str(server.work.parent) not in text and "site-packages" not in text


def test_the_log_of_all_this_holds_no_trace(server):
    assert "Traceback" not in server.log.read_text(errors="replace")

"""What a server refuses: from whom, under which name, how much, and which ids and parameters."""

from __future__ import annotations

import json
import re
import socket
import time
from urllib.parse import quote, urlsplit

import pytest

pytest.importorskip("monailabel", reason="monailabel is not installed; `pip install sonodistill[label]`")

from security_case import ESCAPES, frame, nothing_saved, png, raw, refused, refused_request

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

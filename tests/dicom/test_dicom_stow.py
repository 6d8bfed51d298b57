"""Results by STOW-RS: a real Orthanc takes each once; a server that says less than the truth is not believed."""

from __future__ import annotations

import json
import ssl
import time
import tracemalloc
from collections.abc import Callable
from contextlib import contextmanager
from pathlib import Path

import pytest
from certificates import Authority
from orthanc import free_ports, orthanc
from pydicom import dcmread
from web_case import Handler, as_bytes, lying, renewed, url_of, write

from sonodistill.dicom.errors import DeliveryError, RefusedDeliveryError, ServiceConfigError
from sonodistill.dicom.send.stow import StowDestination
from sonodistill.dicom.settings import DestinationSettings, Tls

OPEN = {"AuthenticationEnabled": False}


def destination(url: str, **settings: object) -> StowDestination:
    return StowDestination(
        DestinationSettings(name="pacs", kind="stow", url=url, **{"timeout_seconds": 2.0, **settings})
    )


@pytest.fixture
def clip(tmp_path: Path) -> Path:
    return write(renewed("ybr_color"), tmp_path / "clip.dcm")


def uid_of(path: Path) -> str:
    return str(dcmread(path, stop_before_pixels=True).SOPInstanceUID)


def answer(*, stored: list[str] = (), failed: dict[str, int] | None = None) -> bytes:  # type: ignore[assignment]
    found = {}
    if stored:
        items = [{"00081155": {"vr": "UI", "Value": [uid]}} for uid in stored]
        found["00081199"] = {"vr": "SQ", "Value": items}
    if failed:
        items = [
            {"00081155": {"vr": "UI", "Value": [uid]}, "00081197": {"vr": "US", "Value": [reason]}}
            for uid, reason in failed.items()
        ]
        found["00081198"] = {"vr": "SQ", "Value": items}
    return json.dumps(found).encode()


def replying(status: int, body: bytes, **headers: str) -> Callable[[Handler], None]:
    def reply(handler: Handler) -> None:
        handler.body()
        handler.reply(status, body, **headers)

    return reply


def test_orthanc_keeps_each_of_several_files_once_after_three_sends(clip: Path, tmp_path: Path) -> None:
    still = write(renewed("rgb_color"), tmp_path / "still.dcm")
    with orthanc(tmp_path, settings=OPEN) as pacs:
        for _ in range(3):
            destination(pacs.web).send([clip, still])
        assert pacs.sop_uids() == {uid_of(clip), uid_of(still)}
        assert len(pacs.instances()) == 2
        kept = [pacs.file(each) for each in pacs.instances()]
        assert sorted(kept) == sorted([clip.read_bytes(), still.read_bytes()])


def test_orthanc_refuses_the_wrong_study_and_garbage(
    clip: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with orthanc(tmp_path, settings=OPEN) as pacs:
        sender = destination(pacs.web)
        post = sender._client.post
        monkeypatch.setattr(sender._client, "post", lambda path, *body, **more: post(f"{path}/1.2.3", *body, **more))
        with pytest.raises(DeliveryError, match="409 with failure 0x"):
            sender.send([clip])
        damaged = tmp_path / "damaged.dcm"
        damaged.write_bytes(clip.read_bytes()[:128] + b"no DICOM")
        with pytest.raises(RefusedDeliveryError):
            destination(pacs.web).send([damaged])
        assert pacs.instances() == []


def test_a_server_that_is_down_takes_it_when_it_is_up(clip: Path) -> None:
    (port,) = free_ports(1)
    sender = destination(f"http://127.0.0.1:{port}")
    with pytest.raises(DeliveryError) as raised:
        sender.send([clip])
    assert not raised.value.permanent
    with lying(replying(200, answer(stored=[uid_of(clip)])), port):
        sender.send([clip])


@pytest.mark.parametrize(
    ("status", "permanent"),
    [
        *((status, True) for status in (400, 406, 409, 413, 415, 422)),
        *((status, False) for status in (301, 401, 403, 404, 405, 408, 429, 500, 502, 503, 507)),
        *((status, False) for status in (200, 202, 204)),
    ],
)
def test_which_answers_are_final(clip: Path, status: int, permanent: bool) -> None:
    with lying(replying(status, b"{}" if status != 204 else b"", Location="http://127.0.0.1:1/")) as server:
        with pytest.raises(DeliveryError) as raised:
            destination(url_of(server)).send([clip])
        assert raised.value.permanent is permanent
        assert len(server.paths) == 1  # not followed, not repeated


def test_200_with_failures_or_without_names_is_no_success(clip: Path, tmp_path: Path) -> None:
    other = write(renewed("rgb_color"), tmp_path / "other.dcm")
    first, second = uid_of(clip), uid_of(other)
    cases = [
        (answer(stored=[first]), False),
        (answer(stored=[first], failed={second: 0xA700}), False),
        (answer(stored=[first], failed={second: 0x0110}), False),
        (answer(stored=[first], failed={second: 0xA900}), True),
        (answer(stored=[first, second], failed={first: 0xC000}), True),
        (answer(stored=["1.2.3", "1.2.4"]), False),
        (b"", False),
        (b"<html>stored, believe me</html>", False),
        (b"[" * 100_000, False),
        (b'{"00081199": {"Value": [null, 3, {"00081155": 5}]}}', False),
    ]
    for body, permanent in cases:
        with lying(replying(200, body)) as server:
            with pytest.raises(DeliveryError) as raised:
                destination(url_of(server)).send([clip, other])
            assert raised.value.permanent is permanent, body[:200]


@pytest.mark.parametrize("status", [200, 202, 409])
def test_what_is_already_there_is_delivered(clip: Path, tmp_path: Path, status: int) -> None:
    other = write(renewed("rgb_color"), tmp_path / "other.dcm")
    body = answer(stored=[uid_of(clip)], failed={uid_of(other): 0x0111})
    with lying(replying(status, body)) as server:
        destination(url_of(server)).send([clip, other])


def test_answers_of_false_length_end_in_an_error_soon_and_without_memory(clip: Path) -> None:
    def broken_off(handler: Handler) -> None:
        handler.body()
        handler.reply(200, answer(stored=[uid_of(clip)]), Content_Length="5000")

    def endless(handler: Handler) -> None:
        handler.body()
        handler.reply(200, b"{", Content_Length=str(10 << 30))
        with pytest.raises(OSError):
            while True:
                handler.wfile.write(b" " * 65536)

    def silent(handler: Handler) -> None:
        handler.body()
        time.sleep(1.5)

    for behave in (broken_off, endless, silent):
        tracemalloc.start()
        with lying(behave) as server, pytest.raises(DeliveryError):
            destination(url_of(server), timeout_seconds=0.5).send([clip])
        assert tracemalloc.get_traced_memory()[1] < 16 << 20
        tracemalloc.stop()


def test_an_answer_before_the_end_of_the_body_is_heard(tmp_path: Path) -> None:
    large = write(renewed("US1_UNCR", ImageComments="x"), tmp_path / "large.dcm")

    def early(handler: Handler) -> None:
        handler.reply(413, b"{}")

    with lying(early) as server, pytest.raises(DeliveryError) as raised:
        destination(url_of(server)).send([large])
    assert "413" in raised.value.message or not raised.value.permanent


def test_the_body_is_streamed(tmp_path: Path) -> None:
    big = renewed("rgb_color")
    path = tmp_path / "big.dcm"
    data = as_bytes(big)
    with path.open("wb") as file:
        file.write(data)
        file.truncate(len(data) + (256 << 20))  # a sparse tail

    def swallow(handler: Handler) -> None:
        left = int(handler.headers["Content-Length"])
        while left > 0 and (read := handler.rfile.read(min(left, 1 << 20))):
            left -= len(read)
        handler.reply(200, answer(stored=[str(big.SOPInstanceUID)]))

    with lying(swallow) as server:
        tracemalloc.start()
        destination(url_of(server), timeout_seconds=30.0).send([path])
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
    assert peak < 16 << 20


def test_the_token_is_read_at_each_send_and_never_travels_in_the_clear(clip: Path, tmp_path: Path) -> None:
    token = tmp_path / "token"
    seen = []

    def check(handler: Handler) -> None:
        handler.body()
        seen.append(handler.headers["Authorization"])
        good = seen[-1] == "Bearer new"
        handler.reply(200 if good else 401, answer(stored=[uid_of(clip)]) if good else b"{}")

    with lying(check) as server:
        token.write_text("old\n")
        sender = destination(url_of(server), token_file=token)
        with pytest.raises(DeliveryError) as raised:
            sender.send([clip])
        assert not raised.value.permanent
        token.write_text("new\n")
        sender.send([clip])
        assert seen == ["Bearer old", "Bearer new"]
        token.write_text("a\r\nX-Injected: b")
        with pytest.raises(DeliveryError) as refused:
            sender.send([clip])
        assert "Injected" not in str(refused.value) and not refused.value.permanent
    with pytest.raises(ServiceConfigError, match="https"):
        destination("http://pacs.example/dicom-web", token_file=token)
    with pytest.raises(ServiceConfigError, match="credentials"):
        destination("https://user:word@pacs.example/")


@contextmanager
def over_tls(pair, behave):
    with lying(behave) as server:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(pair.certificate, pair.key)
        server.socket = context.wrap_socket(server.socket, server_side=True)
        yield f"https://127.0.0.1:{server.server_address[1]}"


def test_tls_is_verified(clip: Path, tmp_path: Path) -> None:
    ours, rogue = Authority(tmp_path, "ours"), Authority(tmp_path, "rogue")
    trusting = Tls(authority=ours.certificate)
    behave = replying(200, answer(stored=[uid_of(clip)]))
    with over_tls(ours.issue("server"), behave) as url:
        destination(url, tls=trusting).send([clip])
        with pytest.raises(DeliveryError):
            destination(url).send([clip])
    with over_tls(rogue.issue("impostor"), behave) as url, pytest.raises(DeliveryError):
        destination(url, tls=trusting).send([clip])
    with over_tls(ours.issue("elsewhere", address="10.0.0.1"), behave) as url, pytest.raises(DeliveryError):
        destination(url, tls=trusting).send([clip])


def test_an_orthanc_with_users_is_reached_with_a_password(clip, tmp_path):
    (tmp_path / "password").write_text("secret\n")
    with orthanc(tmp_path) as pacs:
        with pytest.raises(DeliveryError, match="401"):
            destination(pacs.web, token_file=tmp_path / "password").send([clip])
        destination(pacs.web, token_file=tmp_path / "password", user="tester").send([clip])
        assert len(pacs.instances()) == 1

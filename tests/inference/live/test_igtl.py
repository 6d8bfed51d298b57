"""OpenIGTLink servers as frames: real servers of pyigtl, and peers that mean harm."""

from __future__ import annotations

import socket
import struct
import sys
import threading
from contextlib import suppress
from itertools import islice
from threading import Event

import numpy as np
import pytest

from sonodistill.frames.gray import full_range_16, luma
from sonodistill.inference.live.igtl_image import to_frame
from sonodistill.inference.live.source import SourceError, open_source

pyigtl = pytest.importorskip("pyigtl")


def arrived(message):
    """A message as it comes out of the wire."""
    packed = message.pack()
    fields = message.parse_header(packed[:58])
    received = pyigtl.ImageMessage()
    received.unpack(fields, packed[58:])
    return received


def take(source, count):
    frames = source.frames(Event())
    try:
        return list(islice(frames, count))
    finally:
        frames.close()


def test_frames_arrive_with_their_pixels_times_spacing_and_device(serve, images, cine):
    server = serve().feed(images(cine[:4], "Probe"))
    frames = take(open_source(server.address), 4)
    for frame, sent in zip(frames, cine, strict=False):
        assert np.array_equal(frame.image, sent.image) and frame.image.flags.c_contiguous
    assert [frame.index for frame in frames] == [0, 1, 2, 3]
    assert [frame.time_ms for frame in frames] == pytest.approx([0, 40, 80, 120], abs=1e-2)
    assert frames[0].mm_per_pixel == pytest.approx((0.2, 0.1))
    assert frames[0].provenance.kind == "live" and frames[0].provenance.details["device"] == "Probe"


def test_only_the_device_that_is_named_is_read_and_otherwise_the_first(serve, images, cine):
    mixed = [image for pair in zip(images(cine[:3], "A"), images(cine[3:6], "B"), strict=True) for image in pair]
    named = serve().feed(mixed)
    assert np.array_equal(take(open_source(f"{named.address}/B"), 3)[2].image, cine[5].image)
    first = serve().feed(mixed)
    source = open_source(first.address)
    assert np.array_equal(take(source, 3)[2].image, cine[2].image)
    assert source.hint == "images came from 'B'"


@pytest.mark.parametrize("shape", [(1, 6, 9), (6, 9), (6, 1, 9)])
def test_the_slice_may_lie_along_any_axis(shape):
    pixels = np.arange(54, dtype=np.uint8)
    frame = to_frame(
        arrived(pyigtl.ImageMessage(pixels.reshape(shape), np.diag([0.3, 0.2, 0.1, 1]))), 0, 0.0, "igtl://x"
    )
    assert np.array_equal(frame.image, pixels.reshape(6, 9))
    rows, columns = {(1, 6, 9): (0.2, 0.3), (6, 9): (0.1, 0.2), (6, 1, 9): (0.1, 0.3)}[shape]
    assert frame.mm_per_pixel == pytest.approx((rows, columns))


@pytest.mark.parametrize(
    ("matrix", "note"),
    [(np.eye(4), "know no spacing"), (np.zeros((4, 4)), "impossible"), (np.diag([30, 30, 1, 1]), "impossible")],
)
def test_a_spacing_that_is_not_known_is_not_invented(matrix, note):
    frame = to_frame(arrived(pyigtl.ImageMessage(np.zeros((1, 4, 5), np.uint8), matrix)), 0, None, "igtl://x")
    assert frame.mm_per_pixel is None and note in frame.calibration.note


def test_an_uncalibrated_image_that_is_turned_is_still_uncalibrated():
    turn, sine, cosine = np.eye(4), np.sin(np.pi / 6), np.cos(np.pi / 6)
    turn[:2, :2] = [[cosine, -sine], [sine, cosine]]
    message = arrived(pyigtl.ImageMessage(np.zeros((1, 4, 5), np.uint8), turn))
    sides = np.linalg.norm(message.ijk_to_world_matrix[:3, :2], axis=0)
    assert (sides != 1).any() and sides == pytest.approx([1, 1])  # the wire has single precision
    frame = to_frame(message, 0, None, "igtl://x")
    assert frame.mm_per_pixel is None and "know no spacing" in frame.calibration.note


def test_a_turned_image_keeps_its_spacing():
    turn = np.array([[0.6, -0.8, 0, 5], [0.8, 0.6, 0, 7], [0, 0, 1, 9], [0, 0, 0, 1]]) @ np.diag([0.1, 0.2, 1, 1])
    frame = to_frame(arrived(pyigtl.ImageMessage(np.zeros((1, 4, 5), np.uint8), turn)), 0, None, "igtl://x")
    assert frame.mm_per_pixel == pytest.approx((0.2, 0.1))


def test_colour_becomes_luma_and_sixteen_bits_eight(cine):
    rgb = cine[0].rgb()
    alpha = np.dstack([rgb, np.full(rgb.shape[:2], 7, np.uint8)])
    for pixels in (rgb, alpha):
        frame = to_frame(arrived(pyigtl.ImageMessage(pixels[None])), 0, None, "igtl://x")
        assert np.array_equal(frame.image, luma(rgb)) and np.array_equal(frame.rgb(), rgb)
    deep = np.arange(0, 60000, 1000, dtype=np.uint16).reshape(1, 6, 10)
    for order in "<>":
        message = arrived(pyigtl.ImageMessage(deep))
        message.image = message.image.astype(f"{order}u2")  # what pyigtl makes of a sender of that byte order
        frame = to_frame(message, 0, None, "igtl://x")
        assert np.array_equal(frame.image, full_range_16(deep[0])) and frame.rgb() is None


@pytest.mark.parametrize(
    ("pixels", "said"),
    [
        (np.zeros((1, 4, 5), np.float32), "float32"),
        (np.zeros((1, 4, 5), np.int16), "int16"),
        (np.zeros((3, 4, 5), np.uint8), "volume of 5 x 4 x 3"),
        (np.zeros((1, 4, 5, 2), np.uint8), "2 components"),
        (np.zeros((1, 2, 20000), np.uint8), "20000 columns"),
    ],
)
def test_what_is_no_frame_is_refused_by_name(pixels, said):
    with pytest.raises(Exception, match=said):
        to_frame(arrived(pyigtl.ImageMessage(pixels)), 0, None, "igtl://x")


def header(kind=b"IMAGE", size=0, version=1):
    return struct.pack("> H 12s 20s II Q Q", version, kind, b"Image", 5, 0, size, 0)


@pytest.mark.parametrize(
    ("said", "sent"),
    [
        ("announces a message of 1099511627776 bytes", header(size=1 << 40)),
        ("announces a message of 18446744073709551615 bytes", header(b"STRING", (1 << 64) - 1)),
        ("does not speak OpenIGTLink", b"HTTP/1.1 400 Bad Request\r\nServer: nginx\r\nContent-Length: 0\r\n\r\n" * 2),
        ("cannot be read", header(size=10) + bytes(10)),
        ("cannot be read", header(size=171) + pyigtl.ImageMessage(np.zeros((1, 10, 10), np.uint8)).pack()[58:-1]),
        ("cannot be read", header(size=40, version=2) + bytes([255]) * 40),
    ],
)
def test_a_peer_that_sends_nonsense_is_refused_by_name(said, sent):
    with socket.create_server(("127.0.0.1", 0)) as listening:

        def answer():
            connection, _ = listening.accept()
            with connection, suppress(ConnectionError):
                connection.sendall(sent)
                connection.recv(1)

        thread = threading.Thread(target=answer, daemon=True)
        thread.start()
        with pytest.raises(SourceError, match=said):
            take(open_source(f"igtl://127.0.0.1:{listening.getsockname()[1]}"), 1)
        thread.join(5)
        assert not thread.is_alive()  # the connection was closed


def test_messages_of_other_kinds_are_passed_over(serve, images, cine):
    other = [pyigtl.TransformMessage(np.eye(4), device_name="Tool"), pyigtl.StringMessage("hello", device_name="Text")]
    server = serve().feed([*other, *images(cine[:1])])
    assert np.array_equal(take(open_source(server.address), 1)[0].image, cine[0].image)


def test_a_source_that_is_lost_comes_back(serve, images, cine):
    first = serve().feed(images(cine[:2]))
    source = open_source(first.address)
    stop = Event()
    frames = source.frames(stop)
    assert [next(frames).index, next(frames).index] == [0, 1]
    first.stop()
    serve(first.port).feed(images(cine[2:4], start=1001.0))
    assert [next(frames).index, next(frames).index] == [2, 3]
    assert source.reconnects == 1 and not source.lost
    stop.set()
    assert list(frames) == []


def test_nobody_there_is_said_at_once():
    with socket.create_server(("127.0.0.1", 0)) as listening:
        port = listening.getsockname()[1]
    with pytest.raises(SourceError, match=f"no OpenIGTLink server answers at 127.0.0.1:{port}.*\n.*firewall"):
        open_source(f"igtl://127.0.0.1:{port}")


@pytest.mark.parametrize(
    "address", ["igtl://", "igtl:///Image", "igtl://host:port", "igtl://host:99999", "igtl://[::1"]
)
def test_a_malformed_address_is_refused(address):
    with pytest.raises(SourceError, match="names no OpenIGTLink server"):
        open_source(address)


def test_without_pyigtl_the_error_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "pyigtl", None)
    with pytest.raises(SourceError, match="pip install pyigtl"):
        open_source("igtl://127.0.0.1:1")

"""The multipart reader: the same parts however the bytes arrive, and an error for everything else."""

from __future__ import annotations

import io
from collections.abc import Callable

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sonodistill.dicom.multipart import MultipartError, media_type, parts

bodies = st.lists(
    st.binary(max_size=300) | st.sampled_from([b"\r\n--edg", b"\r\n--", b"--edge", b"\r", b"\r\n"]), max_size=5
)


def in_pieces(data: bytes, sizes: list[int]) -> Callable[[int], bytes]:
    stream, left = io.BytesIO(data), list(sizes)
    return lambda size: stream.read(min(size, left.pop() if left else size))


def taken(read: Callable[[int], bytes], **limits: int) -> list[tuple[dict[str, str], bytes]]:
    return [(headers, b"".join(body)) for headers, body in parts(read, "edge", **{"max_parts": 10, **limits})]


@given(bodies, st.lists(st.integers(1, 40), max_size=200), st.booleans())
@settings(max_examples=300, deadline=None)
def test_parts_are_the_same_however_they_arrive(held: list[bytes], sizes: list[int], preamble: bool) -> None:
    data = b"ignored\r\n" if preamble and held else b""
    data += b"".join(b"--edge\r\nA: %d\r\n\r\n" % at + body + b"\r\n" for at, body in enumerate(held)) + b"--edge--"
    if any(b"\r\n--edge" in b"\r\n\r\n" + body for body in held):
        return  # a boundary may not occur in a part
    assert taken(in_pieces(data, sizes)) == [({"a": str(at)}, body) for at, body in enumerate(held)]


@given(st.binary(max_size=200))
@settings(max_examples=300, deadline=None)
def test_noise_is_an_error_or_parts(noise: bytes) -> None:
    for data in (noise, b"--edge\r\n" + noise, b"--edge\r\n\r\n" + noise + b"\r\n--edge"):
        try:
            taken(io.BytesIO(data).read)
        except MultipartError:
            continue


def test_what_is_not_read_of_a_part_is_passed_over() -> None:
    data = b"--edge\r\n\r\n" + bytes(1 << 20) + b"\r\n--edge\r\nB: 2\r\n\r\nend\r\n--edge--\r\n"
    assert [headers for headers, _ in parts(io.BytesIO(data).read, "edge", max_parts=2)] == [{}, {"b": "2"}]


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"--edge\r\n\r\nabc",
        b"--edge\r\n\r\nabc\r\n--edge",
        b"--edgeless\r\n\r\nabc\r\n--edge--",
        b"--edge\r\nno colon\r\n\r\n\r\n--edge--",
        b"--edge\r\nX: " + b"a" * 10_000 + b"\r\n\r\n\r\n--edge--",
        b"--edge\r\n" + b"X: a\r\n" * 3000 + b"\r\n\r\n--edge--",
        b"--edge\r\n\r\n\r\n" * 11 + b"--edge--",
        b"a" * 10_000 + b"\r\n--edge\r\n\r\n\r\n--edge--",
    ],
)
def test_malformed_bodies_are_errors(data: bytes) -> None:
    with pytest.raises(MultipartError):
        taken(io.BytesIO(data).read)


def test_media_types() -> None:
    said = 'multipart/related; type="image/jpeg; transfer-syntax=1.2.840.10008.1.2.4.50"; Boundary=Ab-C'
    kind, parameters = media_type(said)
    assert kind == "multipart/related" and parameters["boundary"] == "Ab-C"
    assert media_type(parameters["type"]) == ("image/jpeg", {"transfer-syntax": "1.2.840.10008.1.2.4.50"})
    assert media_type(None) == ("", {}) and media_type("")[0] == ""

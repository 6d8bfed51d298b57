"""Images as servers send them: PNG, NRRD, NIfTI and multipart, whole, damaged, too large, and lying elsewhere."""

from __future__ import annotations

import importlib.util
import io
import struct
import zlib
from pathlib import Path

import numpy as np
import pytest

if importlib.util.find_spec("slicer_core") is None:
    pytest.skip("slicer-core is not installed", allow_module_level=True)

import contextlib

from hypothesis import given, settings
from hypothesis import strategies as st
from UltrasoundSegmentLib.backends import infer, multipart, png, volume_files
from UltrasoundSegmentLib.backends.client import Answer
from UltrasoundSegmentLib.backends.model import BackendError, Prompts
from UltrasoundSegmentLib.backends.prompt_points import along, points_of
from UltrasoundSegmentLib.backends.volume_files import Volume

Image = pytest.importorskip("PIL.Image", reason="Pillow is not installed")
sitk = pytest.importorskip("SimpleITK", reason="SimpleITK is not installed")


def noise(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, shape).astype(np.uint8)


# PNG


@pytest.mark.parametrize("shape", [(1, 1), (37, 51), (480, 640)])
def test_a_png_is_what_others_read_and_write(shape: tuple[int, int]) -> None:
    image = noise(*shape)
    assert np.array_equal(np.array(Image.open(io.BytesIO(png.encode(image)))), image)
    theirs = io.BytesIO()
    Image.fromarray(image).save(theirs, "PNG")
    assert np.array_equal(png.decode(theirs.getvalue(), shape), image)


def test_every_filter_of_a_png_is_read() -> None:
    smooth = (np.add.outer(np.arange(40), np.arange(60)) % 256).astype(np.uint8)
    theirs = io.BytesIO()
    Image.fromarray(smooth).save(theirs, "PNG", optimize=True)
    assert np.array_equal(png.decode(theirs.getvalue()), smooth)


@given(at=st.integers(0, 10_000), bit=st.integers(0, 7))
@settings(max_examples=60, deadline=None)
def test_a_png_with_one_wrong_bit_is_refused_or_the_same(at: int, bit: int) -> None:
    image = noise(9, 13)
    content = bytearray(png.encode(image))
    content[at % len(content)] ^= 1 << bit
    with contextlib.suppress(BackendError):
        assert np.array_equal(png.decode(bytes(content)), image)


@given(length=st.integers(0, 400))
@settings(max_examples=40, deadline=None)
def test_a_png_that_is_cut_short_is_refused(length: int) -> None:
    content = png.encode(noise(9, 13))
    with pytest.raises(BackendError):
        png.decode(content[: min(length, len(content) - 1)])


def test_a_png_that_says_one_size_and_holds_another_is_refused() -> None:
    content = png.encode(noise(9, 13))
    head = struct.pack(">IIBBBBB", 13, 900, 8, 0, 0, 0, 0)
    grown = content[:16] + head + struct.pack(">I", zlib.crc32(b"IHDR" + head)) + content[33:]
    with pytest.raises(BackendError, match="damaged"):
        png.decode(grown)


def test_colour_another_shape_and_too_many_pixels_are_refused() -> None:
    theirs = io.BytesIO()
    Image.fromarray(noise(4, 5, 3)).save(theirs, "PNG")
    with pytest.raises(BackendError, match="not gray"):
        png.decode(theirs.getvalue())
    with pytest.raises(BackendError, match="5 x 4 pixels, the frame 4 x 5"):
        png.decode(png.encode(noise(4, 5)), (5, 4))
    head = struct.pack(">IIBBBBB", 1 << 16, 1 << 16, 8, 0, 0, 0, 0)
    huge = b"\x89PNG\r\n\x1a\n" + png._chunk(b"IHDR", head) + png._chunk(b"IDAT", b"") + png._chunk(b"IEND", b"")
    with pytest.raises(BackendError, match="more than are accepted"):
        png.decode(huge)


# Volumes


def place(seed: int = 3) -> np.ndarray:
    """A turned, scaled, moved place."""
    turn, _ = np.linalg.qr(np.random.default_rng(seed).normal(size=(3, 3)))
    matrix = np.eye(4)
    matrix[:3, :3], matrix[:3, 3] = turn * [0.3, 0.5, 2.0], (10.0, -20.0, 30.0)
    return matrix


def test_an_nrrd_lies_for_itk_where_it_lies_here(tmp_path: Path) -> None:
    volume = Volume(noise(3, 5, 7), place())
    (tmp_path / "x.nrrd").write_bytes(volume_files.write_nrrd(volume))
    image = sitk.ReadImage(str(tmp_path / "x.nrrd"))
    assert np.array_equal(sitk.GetArrayFromImage(image), volume.voxels)
    for index in ((0, 0, 0), (6, 4, 2)):
        x, y, z = image.TransformIndexToPhysicalPoint(index)
        assert np.allclose([-x, -y, z], (volume.ijk_to_ras @ [*index, 1])[:3])


@pytest.mark.parametrize("name", ["x.nrrd", "x.nii", "x.nii.gz"])
@pytest.mark.parametrize("kind", [np.uint8, np.int16, np.float32])
def test_what_itk_writes_is_read_where_it_lies(tmp_path: Path, name: str, kind: type) -> None:
    voxels, matrix = noise(3, 5, 7).astype(kind), place()
    lps = np.diag([-1.0, -1.0, 1.0, 1.0]) @ matrix
    spacing = np.linalg.norm(lps[:3, :3], axis=0)
    image = sitk.GetImageFromArray(voxels)
    image.SetSpacing(spacing.tolist())
    image.SetOrigin(lps[:3, 3].tolist())
    image.SetDirection((lps[:3, :3] / spacing).ravel().tolist())
    sitk.WriteImage(image, str(tmp_path / name), useCompression=True)
    found = volume_files.read((tmp_path / name).read_bytes())
    assert np.array_equal(found.voxels, voxels) and np.allclose(found.ijk_to_ras, matrix, atol=1e-4)


@given(length=st.integers(0, 600))
@settings(max_examples=40, deadline=None)
def test_a_volume_that_is_cut_short_is_refused(length: int) -> None:
    content = volume_files.write_nrrd(Volume(noise(3, 5, 7), place()))
    with pytest.raises(BackendError):
        volume_files.read(content[: min(length, len(content) - 20)])


@pytest.mark.parametrize(
    "header",
    [
        "NRRD0004\ntype: uint8\ndimension: 3\nsizes: 100000 100000 100000\nencoding: gzip\n\n",
        "NRRD0004\ntype: uint8\ndimension: 3\nsizes: 2 2 2\nencoding: raw\ndata file: /etc/passwd\n\n12345678",
        "NRRD0004\ntype: uint8\ndimension: 3\nsizes: 2 2 -2\nencoding: raw\n\n12345678",
        "NRRD0004\ntype: uint8\ndimension: 3\nsizes: 2 2 2\nencoding: hex\n\n12345678",
        "NRRD0004\ntype: block\ndimension: 3\nsizes: 2 2 2\nencoding: raw\n\n12345678",
        "NRRD0004\ntype: uint8\nencoding: raw\n\n12345678",
        "<html>no volume</html>",
        "",
    ],
)
def test_what_is_no_single_volume_is_refused(header: str) -> None:
    with pytest.raises(BackendError):
        volume_files.read(header.encode())


def test_an_answer_in_another_order_of_axes_is_brought_to_the_grid_that_was_sent() -> None:
    voxels, matrix = noise(3, 5, 7), place()
    swap = np.zeros((4, 4))  # of the answer's i, j, k to those that were sent
    swap[0, 2], swap[1, 0], swap[2, 1], swap[3, 3] = 1, -1, 1, 1
    swap[1, 3] = 4
    answer = np.zeros((7, 3, 5), np.uint8)  # (K, J, I) of the answer
    for i in range(5):
        for j in range(3):
            for k in range(7):
                at = swap @ [i, j, k, 1]
                answer[k, j, i] = voxels[int(at[2]), int(at[1]), int(at[0])]
    assert np.array_equal(volume_files.on_grid(Volume(answer, matrix @ swap), (3, 5, 7), matrix), voxels)


def test_an_answer_that_lies_elsewhere_is_refused() -> None:
    matrix, moved, scaled = place(), place(), place()
    moved[:3, 3] += matrix[:3, 0] * 2
    scaled[:3, :3] *= 1.5
    for other in (moved, scaled):
        with pytest.raises(BackendError, match="elsewhere|another grid"):
            volume_files.on_grid(Volume(noise(3, 5, 7), other), (3, 5, 7), matrix)


def test_label_numbers_are_whole_and_few() -> None:
    assert infer.numbers(np.array([[0.0, 2.0]])).tolist() == [[0, 2]]
    for values in ([0.5], [-1.0], [256.0], [np.nan]):
        with pytest.raises(BackendError):
            infer.numbers(np.array(values))


# Multipart and what models say


def body(*parts: tuple[str, bytes], mark: str = "mark") -> bytes:
    return b"".join(f"--{mark}\r\n{head}\r\n\r\n".encode() + content + b"\r\n" for head, content in parts) + (
        f"--{mark}--\r\n".encode()
    )


def test_an_answer_of_parameters_and_a_file_is_taken_apart() -> None:
    file = b"\r\n--mar\r\n\0\xff--"
    content = body(
        ('Content-Disposition: form-data; name="params"\r\nContent-Type: application/json', b'{"a": 1}'),
        ('Content-Disposition: form-data; name="image"; filename="result.nrrd"', file),
    )
    said = infer.said(Answer(200, {"Content-Type": 'multipart/form-data; boundary="mark"'}, content))
    assert said == infer.Said({"a": 1}, file)


@pytest.mark.parametrize(
    ("content", "kind"),
    [
        (body(("a: b", b"")), "multipart/form-data"),
        (body(("a: b", b""))[:-6], "multipart/form-data; boundary=mark"),
        (b"nothing", "multipart/form-data; boundary=mark"),
        (body(*[("a: b", b"")] * 20), "multipart/form-data; boundary=mark"),
        (b"--mark\r\n" + b"x" * 20000 + b"\r\n\r\n\r\n--mark--", "multipart/form-data; boundary=mark"),
    ],
)
def test_an_answer_that_is_damaged_is_refused(content: bytes, kind: str) -> None:
    with pytest.raises(BackendError):
        multipart.parse(content, kind)


@given(content=st.binary(max_size=200))
@settings(max_examples=100, deadline=None)
def test_any_bytes_are_parts_or_are_refused(content: bytes) -> None:
    with contextlib.suppress(BackendError):
        multipart.parse(b"--m" + content, "multipart/form-data; boundary=m")


def test_models_of_other_kinds_and_odd_labels_do_no_harm() -> None:
    info = {
        "models": {
            "liver": {"type": "segmentation", "labels": {"liver": 1, "cyst": 3, "bad": "x", "huge": 10**9}},
            "clicks": {"type": "deepedit", "labels": ["a", "b"]},
            "search": {"type": "others"},
            "odd": "nothing",
        }
    }
    found = {model.id: (model.kind, model.labels) for model in infer.models_of(info)}
    assert found == {"liver": ("segmentation", ("liver", "label 2", "cyst")), "clicks": ("interactive", ("a", "b"))}
    for wrong in ([], {}, {"models": 1}):
        with pytest.raises(BackendError):
            infer.models_of(wrong)


# Prompts as a server takes them


def test_scribbles_become_points_at_even_distances_and_never_too_many() -> None:
    assert along([(0.0, 0.0), (9.0, 0.0)], 16) == [(0.0, 0.0), (3.0, 0.0), (6.0, 0.0), (9.0, 0.0)]
    assert along([(5.0, 5.0)], 4) == [(5.0, 5.0)] and along([], 4) == []
    lines = tuple(((0.0, float(y)), (79.0, float(y))) for y in range(30))
    positive, negative = points_of(Prompts(positive=((1.0, 1.0),), scribbles=lines), (64, 80))
    assert 30 <= len(positive) <= 64 and negative == []


def test_points_beside_the_frame_are_moved_to_its_edge() -> None:
    positive, negative = points_of(Prompts(positive=((-3.0, 70.0),), negative=((90.0, 5.0),)), (64, 80))
    assert positive == [[0.0, 63.0]] and negative == [[79.0, 5.0]]

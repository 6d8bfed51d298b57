"""DCMTK, which shares no code with these readers, decodes the same gray values from every transfer syntax."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import numpy as np
import pydicom
import pytest
from dicom_factory import jpeg, lossless_clip
from PIL import Image
from pydicom import uid
from pydicom.pixels import pixel_array

from sonodistill.frames import read


@pytest.fixture(scope="session")
def dcmtk():
    """Runs a tool of DCMTK; skips where it is not installed."""

    def run(tool: str, *arguments: object) -> None:
        if shutil.which(tool) is None:
            pytest.skip(f"{tool} of DCMTK is not installed (apt install dcmtk)")
        command = [tool, *map(str, arguments)]
        subprocess.run(command, check=True, capture_output=True, timeout=60, env={"PATH": "/usr/bin:/bin"})

    return run


def gray_of(rgb: np.ndarray) -> np.ndarray:
    return np.array(Image.fromarray(rgb).convert("L"))


def images(path: Path) -> np.ndarray:
    return np.stack([frame.image for frame in read(path)])


def shown(dcmtk, path: Path, folder: Path) -> np.ndarray:
    """(N, H, W) or (N, H, W, 3): every frame as dcmj2pnm shows it, colours as RGB."""
    folder.mkdir()
    dcmtk("dcmj2pnm", "+op", "+Fa", path, folder / "f")
    files = sorted(folder.iterdir(), key=lambda file: int(file.suffixes[0][1:]))
    return np.stack([np.array(Image.open(file)) for file in files])


def stored(path: Path) -> np.ndarray:
    """(N, H, W) or (N, H, W, 3): the samples of a native file, by NumPy alone."""
    ds = pydicom.dcmread(path)
    assert not ds.file_meta.TransferSyntaxUID.is_encapsulated and ds.BitsAllocated == 8
    count = int(ds.get("NumberOfFrames") or 1)
    data = np.frombuffer(ds.PixelData, np.uint8)[: count * ds.Rows * ds.Columns * ds.SamplesPerPixel]
    if ds.SamplesPerPixel == 1:
        return data.reshape(count, ds.Rows, ds.Columns)
    if ds.PlanarConfiguration:
        return np.moveaxis(data.reshape(count, 3, ds.Rows, ds.Columns), 1, -1)
    return data.reshape(count, ds.Rows, ds.Columns, 3)


@pytest.mark.parametrize(
    "name",
    [
        "US1_UNCR.dcm",
        "US1_UNCI.dcm",
        "ExplVR_BigEnd.dcm",
        "color-pl.dcm",
        "color-px.dcm",
        "examples_rgb_color.dcm",
        "examples_palette.dcm",
        "OBXXXX1A.dcm",
        "OBXXXX1A_2frame.dcm",
        "OBXXXX1A_expb_2frame.dcm",
    ],
)
def test_native_colours_and_palettes_are_equal(dcmtk, pydicom_file, tmp_path, name):
    path = pydicom_file(name)
    expected = shown(dcmtk, path, tmp_path / "out")
    frames = list(read(path))
    np.testing.assert_array_equal(np.stack([frame.rgb() for frame in frames]), expected)
    np.testing.assert_array_equal(np.stack([frame.image for frame in frames]), [*map(gray_of, expected)])


@pytest.mark.parametrize("name", ["OBXXXX1A_rle.dcm", "OBXXXX1A_rle_2frame.dcm"])
def test_public_rle_is_equal(dcmtk, pydicom_file, tmp_path, name):
    dcmtk("dcmdrle", pydicom_file(name), tmp_path / "native.dcm")
    np.testing.assert_array_equal(images(pydicom_file(name)), images(tmp_path / "native.dcm"))
    expected = shown(dcmtk, tmp_path / "native.dcm", tmp_path / "out")
    np.testing.assert_array_equal(images(pydicom_file(name)), [*map(gray_of, expected)])


def test_the_y_of_a_public_jpeg_clip_is_equal_and_its_colours_are(dcmtk, pydicom_file, tmp_path):
    path = pydicom_file("examples_ybr_color.dcm")
    dcmtk("dcmdjpeg", "+cn", path, tmp_path / "native.dcm")
    frames = list(read(path))
    np.testing.assert_array_equal(np.stack([frame.image for frame in frames]), stored(tmp_path / "native.dcm")[..., 0])
    # Both upsample the chroma smoothly by libjpeg, whose versions round differently.
    expected = shown(dcmtk, path, tmp_path / "out").astype(int)
    assert np.abs(np.stack([frame.rgb() for frame in frames]) - expected).max() <= 1


@pytest.mark.parametrize("photometric", ["MONOCHROME1", "MONOCHROME2"])
@pytest.mark.parametrize("encoding", ["+eb", "+ee"], ids=["baseline", "extended"])
def test_gray_jpeg_is_equal(dcmtk, factory, tmp_path, photometric, encoding):
    frames = smooth((2, 45, 51))
    native = factory.save(factory.ultrasound(frames, photometric=photometric), tmp_path / "n.dcm")
    dcmtk("dcmcjpeg", encoding, native, tmp_path / "jpeg.dcm")
    dcmtk("dcmdjpeg", tmp_path / "jpeg.dcm", tmp_path / "back.dcm")
    decoded = stored(tmp_path / "back.dcm")
    np.testing.assert_array_equal(
        images(tmp_path / "jpeg.dcm"), 255 - decoded if photometric == "MONOCHROME1" else decoded
    )


@pytest.mark.parametrize("encoding", ["+el", "+e1"], ids=["lossless", "lossless SV1"])
def test_lossless_jpeg_is_equal(dcmtk, factory, tmp_path, speckle, encoding):
    pytest.importorskip("libjpeg")
    native = factory.save(factory.ultrasound(speckle), tmp_path / "n.dcm")
    dcmtk("dcmcjpeg", encoding, native, tmp_path / "jpeg.dcm")
    np.testing.assert_array_equal(images(tmp_path / "jpeg.dcm"), speckle)


@pytest.mark.parametrize("colour", [False, True], ids=["gray", "RGB"])
@pytest.mark.parametrize(("tool", "option"), [("dcmcjpls", "+el"), ("dcmcjpls", "+en"), ("dcmcrle", "+fr")])
def test_what_dcmtk_encodes_it_decodes_to_the_same(dcmtk, factory, tmp_path, tool, option, colour):
    frames = smooth((3, 33, 46, 3) if colour else (3, 33, 46))
    ds = factory.ultrasound(frames, photometric="RGB" if colour else "MONOCHROME2")
    native = factory.save(ds, tmp_path / "n.dcm")
    dcmtk(tool, *((option,) if tool == "dcmcjpls" else ()), native, tmp_path / "coded.dcm")
    dcmtk("dcmdjpls" if tool == "dcmcjpls" else "dcmdrle", tmp_path / "coded.dcm", tmp_path / "back.dcm")
    decoded = stored(tmp_path / "back.dcm")
    if option != "+en":
        np.testing.assert_array_equal(decoded, frames)
    expected = np.stack([*map(gray_of, np.ascontiguousarray(decoded))]) if colour else decoded
    np.testing.assert_array_equal(images(tmp_path / "coded.dcm"), expected)


def test_what_pyjpegls_encodes_dcmtk_decodes(dcmtk, tmp_path, speckle):
    path = lossless_clip(tmp_path / "c.dcm", speckle, syntax=uid.JPEGLSLossless)
    dcmtk("dcmdjpls", path, tmp_path / "back.dcm")
    np.testing.assert_array_equal(stored(tmp_path / "back.dcm"), images(path))


@pytest.mark.parametrize("syntax", ["+ti", "+te", "+tb"], ids=["implicit", "explicit", "big endian"])
@pytest.mark.parametrize("name", ["OBXXXX1A_2frame.dcm", "US1_UNCR.dcm", "color-pl.dcm", "gdcm-US-ALOKA-16.dcm"])
def test_native_files_keep_their_pixels_when_dcmtk_rewrites_them(dcmtk, pydicom_file, tmp_path, name, syntax):
    dcmtk("dcmconv", syntax, pydicom_file(name), tmp_path / "again.dcm")
    np.testing.assert_array_equal(images(tmp_path / "again.dcm"), images(pydicom_file(name)))


@pytest.mark.parametrize("planar", [0, 1])
def test_native_ybr_full_is_equal(dcmtk, factory, tmp_path, planar):
    frames = smooth((2, 31, 40, 3))
    data = frames if not planar else np.moveaxis(frames, -1, 1)
    ds = factory.ultrasound(frames, photometric="YBR_FULL", PlanarConfiguration=planar)
    ds.PixelData = np.ascontiguousarray(data).tobytes()
    path = factory.save(ds, tmp_path / "y.dcm")
    np.testing.assert_array_equal(images(path), frames[..., 0])
    compare_colours(dcmtk, path, tmp_path)


def test_every_frame_of_native_ybr_full_422_is_equal(dcmtk, factory, tmp_path):
    path, gray = native_422(factory, tmp_path)
    np.testing.assert_array_equal(images(path), gray)
    np.testing.assert_array_equal([frame.image for frame in read(path, only=[2, 0])], gray[[0, 2]])
    compare_colours(dcmtk, path, tmp_path)


def test_ybr_full_422_written_with_three_samples_a_pixel_gives_its_y(factory, tmp_path):
    frames = smooth((2, 31, 40, 3))
    path = factory.save(factory.ultrasound(frames, photometric="YBR_FULL_422"), tmp_path / "y.dcm")
    np.testing.assert_array_equal(images(path), frames[..., 0])


@pytest.mark.parametrize("syntax", [uid.JPEG2000Lossless, uid.JPEG2000], ids=["lossless", "irreversible"])
@pytest.mark.parametrize("colour", [False, True], ids=["gray", "RGB"])
def test_jpeg_2000_clips_agree_with_pillow_where_dcmtk_has_no_decoder(factory, tmp_path, syntax, colour):
    frames = smooth((2, 64, 80, 3) if colour else (2, 64, 80))
    ds = factory.ultrasound(frames, photometric="RGB" if colour else "MONOCHROME2")
    options = {"j2k_cr": [4]} if syntax == uid.JPEG2000 else {}
    ds.compress(syntax, encoding_plugin="pylibjpeg", **options)
    path = factory.save(ds, tmp_path / "j.dcm")
    expected = pixel_array(path, decoding_plugin="pillow", raw=True)
    if colour:
        expected = np.stack([*map(gray_of, expected)])
    difference = np.abs(images(path).astype(int) - expected)
    assert difference.max() <= (1 if syntax == uid.JPEG2000 else 0)
    if syntax == uid.JPEG2000Lossless:
        original = np.stack([*map(gray_of, frames)]) if colour else frames
        np.testing.assert_array_equal(images(path), original)


def test_jpeg_in_several_fragments_a_frame_is_equal(dcmtk, factory, tmp_path):
    frames = smooth((2, 40, 48))
    whole = factory.encapsulated(factory.ultrasound(frames), uid.JPEGBaseline8Bit, [jpeg(frame) for frame in frames])
    whole = factory.save(whole, tmp_path / "w.dcm")
    native = tmp_path / "n.dcm"
    dcmtk("dcmdjpeg", whole, native)
    dcmtk("dcmcjpeg", "+eb", "+fs", 1, native, tmp_path / "pieces.dcm")
    dcmtk("dcmdjpeg", tmp_path / "pieces.dcm", tmp_path / "back.dcm")
    np.testing.assert_array_equal(images(tmp_path / "pieces.dcm"), stored(tmp_path / "back.dcm"))


def smooth(shape: tuple[int, ...]) -> np.ndarray:
    """uint8 ramps with a little noise, different in each frame and sample."""
    rng = np.random.default_rng(3)
    axes = np.meshgrid(*(np.arange(n) for n in shape), indexing="ij")
    ramp = sum((i + 1.7) * axis for i, axis in enumerate(axes))
    return ((ramp + rng.integers(0, 6, shape)) % 200 + 20).astype(np.uint8)


def native_422(factory, folder: Path) -> tuple[Path, np.ndarray]:
    """A clip of three frames, and the Y of each."""
    gray = smooth((3, 32, 40))
    chroma = 100 + smooth((3, 32, 20, 2)) // 5
    ds = factory.ultrasound(np.zeros((3, 32, 40, 3), np.uint8), photometric="YBR_FULL_422")
    ds.PixelData = np.concatenate([gray.reshape(3, 32, 20, 2), chroma], axis=-1).tobytes()
    return factory.save(ds, folder / "422.dcm"), gray


def compare_colours(dcmtk, path: Path, folder: Path) -> None:
    # DCMTK cuts the fractions off each of the products.
    expected = shown(dcmtk, path, folder / "out").astype(int)
    assert np.abs(np.stack([frame.rgb() for frame in read(path)]) - expected).max() <= 2

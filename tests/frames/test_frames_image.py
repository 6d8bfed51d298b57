"""Still images become gray uint8 upright and whole, or raise a named error."""

from __future__ import annotations

import struct
import zlib

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from PIL import Image

from sonodistill.errors import UnreadableFileError, UnsupportedFormatError
from sonodistill.frames import read


def only(path) -> np.ndarray:
    (frame,) = read(path)
    assert frame.image.dtype == np.uint8 and frame.image.flags.c_contiguous
    return frame.image


@settings(max_examples=30, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(image=hnp.arrays(np.uint8, st.tuples(st.integers(1, 20), st.integers(1, 20))))
@pytest.mark.parametrize("suffix", ["png", "bmp", "tiff"])
def test_gray_bytes_come_back_exactly(tmp_path, suffix, image):
    Image.fromarray(image).save(tmp_path / f"a.{suffix}")
    np.testing.assert_array_equal(only(tmp_path / f"a.{suffix}"), image)


@pytest.mark.parametrize("mode", ["RGB", "RGBA", "P", "LA"])
def test_colour_becomes_luma_and_alpha_is_dropped(tmp_path, mode):
    values = np.random.default_rng(0).integers(0, 256, (9, 8, 3), np.uint8)
    image = Image.fromarray(values).convert(mode)
    image.save(tmp_path / "a.png")
    red, green, blue = np.moveaxis(np.array(image.convert("RGB")).astype(int), -1, 0)
    expected = (19595 * red + 38470 * green + 7471 * blue + 32768) >> 16
    np.testing.assert_array_equal(only(tmp_path / "a.png"), expected)


@pytest.mark.parametrize("suffix", ["png", "tiff"])
def test_sixteen_bits_are_scaled_by_their_full_range(tmp_path, suffix):
    values = np.array([[0, 128, 129, 257], [32768, 40000, 65278, 65535]], np.uint16)
    Image.fromarray(values).save(tmp_path / f"a.{suffix}")
    np.testing.assert_array_equal(only(tmp_path / f"a.{suffix}"), np.rint(values / 65535 * 255).astype(np.uint8))


@pytest.mark.parametrize("suffix", ["png", "tiff", "jpg"])
def test_exif_orientation_is_applied_once(tmp_path, suffix):
    image = np.zeros((16, 32), np.uint8)
    image[:8, :8] = 255
    exif = Image.Exif()
    exif[0x0112] = 6  # shown upright after a quarter turn clockwise
    Image.fromarray(image).save(tmp_path / f"a.{suffix}", exif=exif)
    np.testing.assert_array_equal(only(tmp_path / f"a.{suffix}") > 127, np.rot90(image, -1) > 127)


def test_pages_of_a_tiff_are_frames(tmp_path, speckle):
    pages = [Image.fromarray(frame) for frame in speckle]
    pages[0].save(tmp_path / "a.tif", save_all=True, append_images=pages[1:])
    frames = list(read(tmp_path / "a.tif"))
    np.testing.assert_array_equal([frame.image for frame in frames], speckle)
    assert [frame.index for frame in frames] == [0, 1, 2, 3]
    assert {frame.provenance.frames for frame in frames} == {4}


def test_still_images_have_neither_time_nor_scale(tmp_path, speckle):
    Image.fromarray(speckle[0]).save(tmp_path / "a.png", dpi=(254, 254))
    frame = next(read(tmp_path / "a.png"))
    assert frame.time_ms is None and frame.mm_per_pixel is None
    assert frame.calibration.note == "image files carry no physical scale"


def test_content_counts_before_the_suffix(tmp_path, speckle):
    Image.fromarray(speckle[0]).save(tmp_path / "a.png")
    (tmp_path / "a.png").rename(tmp_path / "a.dcm")
    np.testing.assert_array_equal(only(tmp_path / "a.dcm"), speckle[0])


def test_floating_point_tiff_is_refused(tmp_path):
    Image.fromarray(np.zeros((4, 4), np.float32)).save(tmp_path / "a.tif")
    with pytest.raises(UnsupportedFormatError, match="32 bits"):
        next(read(tmp_path / "a.tif"))


def test_an_empty_file_is_refused(tmp_path):
    (tmp_path / "a.png").touch()
    with pytest.raises(UnreadableFileError, match="0 bytes"):
        next(read(tmp_path / "a.png"))


def test_a_missing_file_and_a_folder_are_refused(tmp_path):
    with pytest.raises(UnreadableFileError, match="no such file"):
        read(tmp_path / "a.png")
    with pytest.raises(UnsupportedFormatError, match="folder"):
        read(tmp_path)


@pytest.mark.parametrize("suffix", ["png", "jpg", "tif", "bmp"])
def test_a_truncated_image_is_refused(tmp_path, suffix):
    path = tmp_path / f"a.{suffix}"
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (64, 64), np.uint8)).save(path)
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    with pytest.raises(UnreadableFileError):
        next(read(path))


def test_text_named_png_and_unknown_suffixes_are_refused(tmp_path):
    (tmp_path / "a.png").write_text("no image")
    (tmp_path / "a.docx").write_text("no image")
    with pytest.raises(UnreadableFileError, match="no PNG"):
        next(read(tmp_path / "a.png"))
    with pytest.raises(UnsupportedFormatError, match="not read"):
        read(tmp_path / "a.docx")


def test_kretz_volumes_are_refused_by_name(tmp_path):
    (tmp_path / "a.vol").write_bytes(b"KRETZFILE 1.0   " + bytes(100))
    with pytest.raises(UnsupportedFormatError, match="GE Kretz"):
        read(tmp_path / "a.vol")


@pytest.mark.parametrize("kind", ["jpg", "png"])
def test_a_decompression_bomb_is_refused_before_decoding(tmp_path, kind):
    path = tmp_path / f"bomb.{kind}"
    if kind == "jpg":
        Image.fromarray(np.zeros((8, 8), np.uint8)).save(path)
        data = bytearray(path.read_bytes())
        frame = data.index(b"\xff\xc0")
        data[frame + 5 : frame + 9] = struct.pack(">HH", 65500, 65500)
        path.write_bytes(data)
    else:
        header = struct.pack(">IIBBBBB", 65500, 65500, 8, 0, 0, 0, 0)
        chunk = b"IHDR" + header
        path.write_bytes(
            b"\x89PNG\r\n\x1a\n"
            + struct.pack(">I", 13)
            + chunk
            + struct.pack(">I", zlib.crc32(chunk))
            + bytes(4)
            + b"IDAT"
            + bytes(4)
        )
    with pytest.raises(UnreadableFileError, match="more pixels than any ultrasound frame"):
        next(read(path))


def test_real_stills_are_read_as_they_are(shared):
    for folder in ("muscle_timtrack", "hc18", "ddti"):
        for path in sorted((shared / "data" / "raw" / folder).rglob("*"))[:60]:
            if path.suffix.lower() in (".png", ".jpg", ".bmp"):
                with Image.open(path) as image:
                    np.testing.assert_array_equal(only(path), np.array(image.convert("L")))

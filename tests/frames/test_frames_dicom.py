"""DICOM stills and clips: gray values against an independent decode, time, laziness, and refusals before decoding."""

from __future__ import annotations

import io
import json
import tracemalloc
from itertools import islice

import numpy as np
import pydicom
import pytest
from dicom_factory import jpeg, lossless_clip
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from PIL import Image
from pydicom import uid
from pydicom.encaps import generate_frames
from pydicom.pixels import pixel_array

from sonodistill.errors import UnsupportedFormatError
from sonodistill.frames import read
from sonodistill.frames.dicom import frame_times


def pillow_luma(rgb: np.ndarray) -> np.ndarray:
    return np.array(Image.fromarray(rgb).convert("L"))


def images(path) -> np.ndarray:
    return np.stack([frame.image for frame in read(path)])


@pytest.mark.parametrize("name", ["US1_UNCR.dcm", "US1_UNCI.dcm", "color-px.dcm", "examples_rgb_color.dcm"])
def test_native_rgb_is_the_luma_of_its_bytes(pydicom_file, name):
    ds = pydicom.dcmread(pydicom_file(name))
    rgb = np.frombuffer(ds.PixelData, np.uint8)[: ds.Rows * ds.Columns * 3].reshape(ds.Rows, ds.Columns, 3)
    np.testing.assert_array_equal(images(pydicom_file(name))[0], pillow_luma(rgb))


@pytest.mark.parametrize("name", ["color-pl.dcm", "ExplVR_BigEnd.dcm"])
def test_planar_rgb_is_the_luma_of_its_planes(pydicom_file, name):
    ds = pydicom.dcmread(pydicom_file(name))
    data = np.frombuffer(ds.PixelData, np.uint8)
    if ds["PixelData"].VR == "OW" and not ds.original_encoding[1]:
        data = data.reshape(-1, 2)[:, ::-1].ravel()
    planes = data[: ds.Rows * ds.Columns * 3].reshape(3, ds.Rows, ds.Columns)
    np.testing.assert_array_equal(
        images(pydicom_file(name))[0], pillow_luma(np.ascontiguousarray(planes.transpose(1, 2, 0)))
    )


@pytest.mark.parametrize("name", ["US1_J2KR.dcm", "US1_J2KI.dcm", "examples_jpeg2k.dcm"])
def test_jpeg_2000_agrees_with_pillows_decoder(pydicom_file, name):
    expected = pillow_luma(pixel_array(pydicom_file(name), decoding_plugin="pillow", raw=True))
    difference = images(pydicom_file(name))[0].astype(int) - expected
    assert np.abs(difference).max() <= (0 if name != "US1_J2KI.dcm" else 1)


def test_lossless_jpeg_2000_equals_the_uncompressed_original(pydicom_file):
    np.testing.assert_array_equal(images(pydicom_file("US1_J2KR.dcm")), images(pydicom_file("US1_UNCR.dcm")))


@pytest.mark.parametrize("name", ["examples_ybr_color.dcm", "color3d_jpeg_baseline.dcm"])
def test_y_of_a_jpeg_clip_is_the_luma_of_its_colours_within_one_gray_level(pydicom_file, name):
    ds = pydicom.dcmread(pydicom_file(name))
    encoded = generate_frames(ds.PixelData, number_of_frames=ds.NumberOfFrames)
    count = 0
    for frame, data in zip(read(pydicom_file(name)), encoded, strict=True):
        count += 1
        if frame.index % 8:
            continue
        colours = np.array(Image.open(io.BytesIO(data)).convert("RGB"))
        # Saturated colours were clipped on the way to RGB; the Y was not.
        inside = ((colours > 0) & (colours < 255)).all(axis=-1) | (np.ptp(colours, axis=-1) == 0)
        difference = np.abs(frame.image.astype(int) - pillow_luma(colours))
        assert difference[inside].max() <= 1
        assert difference.max() <= 8 and (difference > 1).mean() < 0.002
    assert count == ds.NumberOfFrames


def test_jpeg_lossless_equals_another_plugin_or_names_the_package(pydicom_file):
    path = pydicom_file("JPGLosslessP14SV1_1s_1f_8b.dcm")
    pytest.importorskip("libjpeg")
    np.testing.assert_array_equal(images(path)[0], pixel_array(path, raw=True))


def test_missing_jpeg_lossless_decoder_names_the_package(pydicom_file, monkeypatch):
    from pydicom.pixels.decoders import JPEGLosslessSV1Decoder

    monkeypatch.setattr(JPEGLosslessSV1Decoder, "_available", {})
    with pytest.raises(UnsupportedFormatError, match="pip install pylibjpeg-libjpeg"):
        next(read(pydicom_file("JPGLosslessP14SV1_1s_1f_8b.dcm")))


@pytest.mark.parametrize(
    "name", ["JPEGLSNearLossless_08.dcm", "SC_rgb_jls_lossy_line.dcm", "SC_rgb_jls_lossy_sample.dcm"]
)
def test_jpeg_ls_equals_pylibjpegs_decode(pydicom_file, name):
    pytest.importorskip("libjpeg")
    expected = pixel_array(pydicom_file(name), decoding_plugin="pylibjpeg", raw=True)
    expected = pillow_luma(expected) if expected.ndim == 3 else expected
    np.testing.assert_array_equal(images(pydicom_file(name))[0], expected)


def palette_rgb(ds: pydicom.Dataset, order: str) -> np.ndarray:
    """PS3.3 C.7.6.3.1.5 by hand: words in the file's byte order, upper byte kept."""
    tables = []
    for colour in ("Red", "Green", "Blue"):
        words = np.frombuffer(ds[f"{colour}PaletteColorLookupTableData"].value, f"{order}u2")
        tables.append((words >> 8).astype(np.uint8))
    return np.stack(tables, axis=-1)


@pytest.mark.parametrize(
    ("name", "order"),
    [
        ("OBXXXX1A.dcm", "<"),
        ("OBXXXX1A_2frame.dcm", "<"),
        ("OBXXXX1A_expb.dcm", ">"),
        ("OBXXXX1A_expb_2frame.dcm", ">"),
        ("OBXXXX1A_rle.dcm", "<"),
        ("OBXXXX1A_rle_2frame.dcm", "<"),
        ("examples_palette.dcm", "<"),
    ],
)
def test_palette_images_become_the_luma_of_their_colours(pydicom_file, name, order):
    ds = pydicom.dcmread(pydicom_file(name))
    indices = pixel_array(ds, raw=True).reshape(-1, ds.Rows, ds.Columns)
    expected = np.stack([pillow_luma(palette_rgb(ds, order)[frame]) for frame in indices])
    np.testing.assert_array_equal(images(pydicom_file(name)), expected)


def test_sixteen_bit_segmented_palette_is_the_same_in_both_byte_orders(pydicom_file):
    little, big = images(pydicom_file("gdcm-US-ALOKA-16.dcm")), images(pydicom_file("gdcm-US-ALOKA-16_big.dcm"))
    assert little.shape == (1, 480, 640) and little.max() > 200
    np.testing.assert_array_equal(little, big)


@pytest.mark.parametrize("name", ["SC_ybr_full_uncompressed.dcm", "SC_ybr_full_422_uncompressed.dcm"])
def test_native_ybr_gives_its_y(pydicom_file, name):
    # 2 and not 1: the test card's colours are saturated, and were clipped on the way to RGB.
    difference = images(pydicom_file(name))[0].astype(int) - pillow_luma(pixel_array(pydicom_file(name)))
    assert np.abs(difference).max() <= 2


@pytest.mark.parametrize(
    "name", ["SC_rgb_jpeg_dcmtk.dcm", "SC_jpeg_no_color_transform.dcm", "SC_rgb_jpeg_app14_dcmd.dcm"]
)
def test_jpeg_colour_space_follows_its_markers(pydicom_file, name):
    path = pydicom_file(name)
    expected = pillow_luma(pixel_array(path, decoding_plugin="pillow"))
    assert np.abs(images(path)[0].astype(int) - expected).max() <= 2


def test_unmarked_jpeg_of_an_rgb_file_is_taken_as_rgb(factory, tmp_path):
    rgb = np.random.default_rng(1).integers(0, 256, (1, 1, 3), np.uint8).repeat(16, 0).repeat(16, 1)
    stream = jpeg(rgb, keep_rgb=True, subsampling=0)
    start = stream.index(b"\xff\xee")
    length = int.from_bytes(stream[start + 2 : start + 4], "big") + 2
    stream = stream[:start] + stream[start + length :]
    for old, new in (
        (b"\x52\x11\x00", b"\x01\x11\x00"),
        (b"\x47\x11\x00", b"\x02\x11\x00"),
        (b"\x42\x11\x00", b"\x03\x11\x00"),
    ):
        stream = stream.replace(old, new, 1)
    stream = stream.replace(b"\x03R\x00G\x00B\x00", b"\x03\x01\x00\x02\x00\x03\x00", 1)
    ds = factory.encapsulated(
        factory.ultrasound(rgb[None], photometric="RGB"), uid.JPEGBaseline8Bit, [stream + b"\0" * (len(stream) % 2)]
    )
    image = images(factory.save(ds, tmp_path / "rgb.dcm"))[0]
    assert np.abs(image.astype(int) - pillow_luma(rgb)).max() <= 2


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(frames=hnp.arrays(np.uint8, st.tuples(*(st.integers(1, 9),) * 3)))
def test_native_gray_bytes_come_back_exactly(factory, tmp_path, frames):
    np.testing.assert_array_equal(images(factory.save(factory.ultrasound(frames), tmp_path / "a.dcm")), frames)


def test_big_endian_comes_back_exactly(factory, tmp_path, speckle):
    even = speckle[:, :, :30]
    np.testing.assert_array_equal(images(factory.save_big_endian(even, tmp_path / "b.dcm")), even)


@pytest.mark.parametrize("syntax", [uid.RLELossless, uid.JPEGLSLossless], ids=["RLE", "JPEG-LS"])
def test_lossless_clips_come_back_exactly(factory, tmp_path, speckle, syntax):
    path = lossless_clip(tmp_path / "r.dcm", speckle, syntax=syntax)
    np.testing.assert_array_equal(images(path), speckle)


def test_monochrome1_is_inverted(factory, tmp_path, speckle):
    path = factory.save(factory.ultrasound(speckle, photometric="MONOCHROME1"), tmp_path / "m1.dcm")
    np.testing.assert_array_equal(images(path), 255 - speckle)


def test_sixteen_bits_are_scaled_by_their_stored_range(factory, tmp_path):
    values = np.linspace(0, 4095, 64, dtype=np.uint16).reshape(1, 8, 8)
    path = factory.save(factory.ultrasound(values, BitsStored=12, HighBit=11), tmp_path / "d.dcm")
    np.testing.assert_array_equal(images(path), np.rint(values / 4095 * 255).astype(np.uint8))


def test_sixteen_bits_follow_rescale_and_window(factory, tmp_path):
    values = np.arange(-32, 32, dtype=np.int16).reshape(1, 8, 8)
    attributes = {"RescaleSlope": 2, "RescaleIntercept": 10, "WindowCenter": 10.5, "WindowWidth": 101}
    path = factory.save(factory.ultrasound(values, **attributes), tmp_path / "w.dcm")
    expected = np.clip(((values * 2.0 + 10 - 10) / 100 + 0.5) * 255, 0, 255)
    assert np.abs(images(path) - expected).max() <= 0.5 + 1e-3


@pytest.mark.parametrize(
    ("attributes", "times", "source"),
    [
        ({"FrameIncrementPointer": 0x00181063, "FrameTime": "25.5"}, [0, 25.5, 51, 76.5], "FrameTime"),
        (
            {"FrameIncrementPointer": 0x00181065, "FrameTimeVector": [0, 20, 30, 40], "FrameTime": "5"},
            [0, 20, 50, 90],
            "FrameTimeVector",
        ),
        ({"FrameTimeVector": [7, 20, 30, 40]}, [0, 20, 50, 90], "FrameTimeVector"),
        ({"FrameTime": "25.5"}, [0, 25.5, 51, 76.5], "FrameTime"),
        ({"FrameTimeVector": [0, -20, 30, 40], "CineRate": 50}, [0, 20, 40, 60], "CineRate"),
        ({"CineRate": 50}, [0, 20, 40, 60], "CineRate"),
        ({"RecommendedDisplayFrameRate": 10}, [0, 100, 200, 300], "RecommendedDisplayFrameRate"),
        ({"FrameIncrementPointer": 0x00181065, "FrameTimeVector": [0, 20]}, None, None),
        ({"FrameIncrementPointer": 0x00181063, "FrameTime": "0"}, None, None),
        ({}, None, None),
    ],
)
def test_time_is_what_the_header_states_or_nothing(factory, tmp_path, speckle, attributes, times, source):
    ds = factory.ultrasound(speckle, **attributes)
    stated, where = frame_times(ds, 4)
    assert where == source
    assert stated is None if times is None else stated == pytest.approx(times)
    frames = list(read(factory.save(ds, tmp_path / "t.dcm")))
    assert [frame.time_ms for frame in frames] == (pytest.approx(times) if times else [None] * 4)


def test_provenance_names_the_object_and_never_the_patient(factory, tmp_path, speckle):
    path = factory.save(
        factory.ultrasound(speckle, Manufacturer="Maker", ManufacturerModelName="M1"), tmp_path / "p.dcm"
    )
    frame = next(read(path))
    text = json.dumps(frame.provenance.details)
    assert "Secret" not in text and "SECRET" not in text
    assert frame.provenance.details["manufacturer_model"] == "M1"
    assert frame.provenance.details["sop_class_uid"] == uid.UltrasoundMultiFrameImageStorage
    assert (frame.provenance.kind, frame.provenance.frames) == ("dicom", 4)


@pytest.mark.parametrize("encode", [True, False], ids=["JPEG-LS", "native"])
def test_memory_stays_flat_over_a_long_clip(factory, tmp_path, encode):
    clip = np.random.default_rng(2).integers(0, 9, (4, 240, 320), np.uint8)
    if encode:
        path = lossless_clip(tmp_path / "c.dcm", clip, repeat=80)
    else:
        path = factory.save(factory.ultrasound(np.tile(clip, (80, 1, 1))), tmp_path / "c.dcm")
    one_frame = clip[0].nbytes
    list(islice(read(path), 2))
    tracemalloc.start()
    count = sum(1 for _ in read(path))
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert count == 320
    assert peak < 8 * one_frame, f"{peak / one_frame:.1f} frames at once"


def test_first_frame_of_a_long_clip_decodes_one_frame(factory, tmp_path, monkeypatch):
    from pydicom.pixels.decoders import base

    path = lossless_clip(tmp_path / "long.dcm", np.zeros((1, 8, 8), np.uint8), repeat=1000)
    handed_out = []
    original = base.generate_frames

    def counting(*args, **kwargs):
        for data in original(*args, **kwargs):
            handed_out.append(len(data))
            yield data

    monkeypatch.setattr(base, "generate_frames", counting)
    frames = read(path)
    assert not handed_out
    next(frames)
    assert len(handed_out) == 1
    frames.close()


@pytest.mark.parametrize("container", ["mpegts", "mp4"])
@pytest.mark.parametrize("pieces", [1, 3])
def test_encapsulated_h264_gives_every_frame(factory, tmp_path, container, pieces):
    av = pytest.importorskip("av")
    if "libx264" not in av.codecs_available:
        pytest.skip("this PyAV has no H.264 encoder")
    level = np.arange(40, 220, 30, dtype=np.uint8)
    buffer = io.BytesIO()
    with av.open(buffer, "w", format=container) as output:
        stream = output.add_stream("libx264", rate=25)
        stream.width, stream.height, stream.pix_fmt = 64, 48, "yuv420p"
        for value in level:
            frame = av.VideoFrame.from_ndarray(np.full((48, 64), value, np.uint8), format="gray")
            output.mux(stream.encode(frame))
        output.mux(stream.encode())
    data = buffer.getvalue()
    step = (len(data) // pieces + 1) // 2 * 2 + 2
    fragments = [data[i : i + step] for i in range(0, len(data), step)]
    fragments[-1] += b"\0" * (len(fragments[-1]) % 2)
    ds = factory.ultrasound(np.zeros((len(level), 48, 64, 3), np.uint8), photometric="YBR_PARTIAL_420", CineRate=25)
    ds = factory.encapsulated(ds, "1.2.840.10008.1.2.4.102", fragments, offset_table=False)
    frames = list(read(factory.save(ds, tmp_path / "v.dcm")))
    np.testing.assert_allclose([frame.image.mean() for frame in frames], level, atol=3)
    assert frames[-1].time_ms == pytest.approx(200)

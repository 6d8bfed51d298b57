"""A frame of a colour source gives its colours on demand, whose luma its image is; a gray source gives none."""

from __future__ import annotations

import io
import json
import pickle

import av
import numpy as np
import pydicom
import pytest
import SimpleITK as sitk
from dicom_factory import jpeg
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from PIL import Image
from pydicom import uid
from pydicom.encaps import generate_frames
from pydicom.pixels import pixel_array

from sonodistill.errors import UnreadableFileError
from sonodistill.frames import read
from sonodistill.frames.gray import luma
from sonodistill.frames.regions import regions_of


def check_luma(frame, *, exact: int, clipped: int) -> np.ndarray:
    """The frame's colours, whose luma is its image within ``exact`` levels; ``clipped`` where RGB is saturated.

    Y and RGB part where the decoder clipped colours that RGB cannot hold: those pixels have a 0 or a 255 in them.
    """
    colours = frame.rgb()
    assert colours.dtype == np.uint8 and colours.shape == (*frame.image.shape, 3) and colours.flags.c_contiguous
    difference = np.abs(luma(colours).astype(int) - frame.image)
    saturated = ((colours == 0) | (colours == 255)).any(axis=-1)
    assert difference[~saturated].max(initial=0) <= exact
    assert difference.max() <= clipped
    return colours


@pytest.mark.parametrize(
    "name",
    [
        *("US1_UNCR.dcm", "color-px.dcm", "color-pl.dcm", "ExplVR_BigEnd.dcm", "examples_rgb_color.dcm"),
        *("US1_J2KR.dcm", "US1_J2KI.dcm", "examples_jpeg2k.dcm", "SC_rgb_jls_lossy_line.dcm", "SC_rgb_rle_16bit.dcm"),
        *("OBXXXX1A.dcm", "OBXXXX1A_expb.dcm", "examples_palette.dcm", "gdcm-US-ALOKA-16.dcm"),
        *("SC_jpeg_no_color_transform.dcm", "SC_rgb_jpeg_app14_dcmd.dcm"),
    ],
)
def test_of_stored_rgb_and_palettes_the_image_is_the_exact_luma(pydicom_file, name):
    check_luma(next(read(pydicom_file(name))), exact=0, clipped=0)


@pytest.mark.parametrize(
    "name",
    [
        *("examples_ybr_color.dcm", "color3d_jpeg_baseline.dcm", "SC_ybr_full_uncompressed.dcm"),
        *("SC_ybr_full_422_uncompressed.dcm", "SC_rgb_jpeg_dcmtk.dcm", "SC_rgb_jpeg_lossy_gdcm.dcm"),
    ],
)
def test_of_stored_ycbcr_the_image_is_the_luma_within_a_level_where_rgb_is_not_saturated(pydicom_file, name):
    check_luma(next(read(pydicom_file(name), only=[0])), exact=1, clipped=8)


def test_jpeg_clips_have_the_colours_that_pillow_decodes(pydicom_file):
    path = pydicom_file("examples_ybr_color.dcm")
    ds = pydicom.dcmread(path)
    encoded = list(generate_frames(ds.PixelData, number_of_frames=ds.NumberOfFrames))
    for frame in read(path, only=[0, 17, 29]):
        expected = np.array(Image.open(io.BytesIO(encoded[frame.index])).convert("RGB"))
        np.testing.assert_array_equal(frame.rgb(), expected)


@pytest.mark.parametrize("name", ["SC_ybr_full_uncompressed.dcm", "SC_ybr_full_422_uncompressed.dcm"])
def test_native_ybr_has_the_colours_that_pydicom_converts_it_to(pydicom_file, name):
    expected = pixel_array(pydicom_file(name)).astype(int)
    assert np.abs(next(read(pydicom_file(name))).rgb() - expected).max() <= 1


@settings(max_examples=20, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(colours=hnp.arrays(np.uint8, st.tuples(st.integers(1, 9), st.integers(1, 9), st.just(3))))
@pytest.mark.parametrize("suffix", ["dcm", "png", "bmp", "tif", "nrrd"])
def test_colours_stored_without_loss_come_back_exactly(factory, tmp_path, suffix, colours):
    path = tmp_path / f"a.{suffix}"
    if suffix == "dcm":
        factory.save(factory.ultrasound(colours[None], photometric="RGB"), path)
    elif suffix == "nrrd":
        sitk.WriteImage(sitk.GetImageFromArray(colours, isVector=True), path)
    else:
        Image.fromarray(colours).save(path)
    frame = next(read(path))
    np.testing.assert_array_equal(frame.rgb(), colours)
    np.testing.assert_array_equal(frame.image, luma(colours))
    frame.rgb()[:] = 7
    np.testing.assert_array_equal(frame.rgb(), colours)


@pytest.mark.parametrize("mode", ["RGBA", "P", "CMYK"])
def test_other_colour_modes_become_rgb(tmp_path, mode):
    values = np.random.default_rng(0).integers(0, 256, (9, 8, 3), np.uint8)
    image = Image.fromarray(values).convert(mode)
    image.save(tmp_path / "a.tif")
    frame = next(read(tmp_path / "a.tif"))
    np.testing.assert_array_equal(frame.rgb(), np.array(image.convert("RGB")))
    check_luma(frame, exact=1, clipped=1)


def test_colours_are_upright_as_the_image_is(tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (4, 6, 3), np.uint8)).save(tmp_path / "a.png", exif=exif)
    frame = next(read(tmp_path / "a.png"))
    assert frame.image.shape == (6, 4)
    check_luma(frame, exact=0, clipped=0)


def test_pages_keep_their_own_colours_when_the_next_one_is_read(tmp_path):
    pages = np.random.default_rng(0).integers(0, 256, (3, 5, 6, 3), np.uint8)
    first, *others = (Image.fromarray(page) for page in pages)
    first.save(tmp_path / "a.tif", save_all=True, append_images=others)
    np.testing.assert_array_equal([frame.rgb() for frame in list(read(tmp_path / "a.tif"))], pages)


@pytest.mark.parametrize("photometric", ["MONOCHROME1", "MONOCHROME2"])
def test_gray_dicom_has_no_colours(factory, tmp_path, speckle, photometric):
    ds = factory.ultrasound(speckle, photometric=photometric)
    assert next(read(factory.save(ds, tmp_path / "native.dcm"))).rgb() is None
    ds = factory.encapsulated(ds, uid.JPEGBaseline8Bit, [jpeg(image) for image in speckle])
    assert next(read(factory.save(ds, tmp_path / "jpeg.dcm"))).rgb() is None


@pytest.mark.parametrize("name", ["a.png", "a.jpg", "deep.png", "alpha.png", "a.nrrd"])
def test_gray_stills_and_volumes_have_no_colours(tmp_path, speckle, name):
    if name == "a.nrrd":
        sitk.WriteImage(sitk.GetImageFromArray(speckle), tmp_path / name)
    else:
        image = Image.fromarray(speckle[0].astype(np.uint16) if name == "deep.png" else speckle[0])
        (image.convert("LA") if name == "alpha.png" else image).save(tmp_path / name)
    assert next(read(tmp_path / name)).rgb() is None


def write_video(path, codec: str, pixels: str, image: np.ndarray) -> None:
    with av.open(str(path), "w") as output:
        stream = output.add_stream(codec, rate=25)
        stream.height, stream.width = image.shape[:2]
        stream.pix_fmt = pixels
        frame = av.VideoFrame.from_ndarray(image, format="gray" if image.ndim == 2 else "rgb24")
        output.mux([*stream.encode(frame), *stream.encode()])


def test_a_gray_video_has_no_colours(tmp_path, speckle):
    write_video(tmp_path / "v.mkv", "ffv1", "gray", speckle[0])
    frame = next(read(tmp_path / "v.mkv"))
    np.testing.assert_array_equal(frame.image, speckle[0])
    assert frame.rgb() is None


def test_a_colour_video_has_its_colours(tmp_path):
    rows, columns = np.mgrid[0:48, 0:64]
    image = np.stack([50 + 2 * rows, 60 + 2 * columns, 200 - rows - columns], axis=-1).astype(np.uint8)
    write_video(tmp_path / "v.mkv", "ffv1", "yuv444p", image)
    assert np.abs(check_luma(next(read(tmp_path / "v.mkv")), exact=2, clipped=2).astype(int) - image).max() <= 4


@pytest.mark.parametrize("suffix", ["dcm", "png", "nrrd", "mkv"])
def test_frames_take_their_colours_to_another_process(factory, tmp_path, suffix):
    colours = np.random.default_rng(2).integers(0, 256, (1, 48, 64, 3), np.uint8)
    path = tmp_path / f"a.{suffix}"
    if suffix == "dcm":
        ds = factory.ultrasound(colours, photometric="YBR_FULL_422")
        factory.save(factory.encapsulated(ds, uid.JPEGBaseline8Bit, [jpeg(colours[0])]), path)
    elif suffix == "mkv":
        write_video(path, "ffv1", "yuv444p", colours[0])
    elif suffix == "png":
        Image.fromarray(colours[0]).save(path)
    else:
        sitk.WriteImage(sitk.GetImageFromArray(colours[0], isVector=True), path)
    frame = next(read(path))
    np.testing.assert_array_equal(pickle.loads(pickle.dumps(frame)).rgb(), frame.rgb())


def test_of_real_videos_the_image_is_the_luma_within_two_levels_where_rgb_is_not_saturated(shared):
    for path in sorted((shared / "data" / "raw" / "video").glob("*.mp4")):
        for frame in read(path, only=[0, 20]):
            check_luma(frame, exact=2, clipped=12)


def test_of_real_stills_and_volumes_the_image_is_the_exact_luma(shared):
    raw = shared / "data" / "raw"
    stills = sorted((raw / "busi").rglob("*.png"))[:6] + sorted((raw / "ddti").rglob("*.jpg"))[:6]
    coloured = [frame for path in stills if (frame := next(read(path))).colour is not None]
    assert len(coloured) > 6
    for frame in [*coloured, next(read(raw / "volumes" / "ColorNrrdSample.igs.nrrd"))]:
        check_luma(frame, exact=0, clipped=0)


def test_colours_that_cannot_be_decoded_are_a_named_error(factory, tmp_path):
    colours = np.random.default_rng(1).integers(0, 256, (2, 64, 64, 3), np.uint8)
    ds = factory.ultrasound(colours, photometric="YBR_FULL_422")
    ds = factory.encapsulated(ds, uid.JPEGBaseline8Bit, [jpeg(image) for image in colours])
    frame = list(read(factory.save(ds, tmp_path / "x.dcm")))[1]
    decode = frame.colour
    damaged = type(decode)(decode.func, decode.args[0][:900], **decode.keywords)
    torn = type(frame)(frame.image, frame.index, None, frame.calibration, frame.provenance, damaged)
    with pytest.raises(UnreadableFileError, match="the colours of frame 2 cannot be decoded") as raised:
        torn.rgb()
    assert raised.value.path == tmp_path / "x.dcm"


IMAGE = np.zeros((1, 100, 200), np.uint8)


def test_regions_are_half_open_boxes_with_what_they_show(factory, tmp_path):
    items = [
        factory.region(10, 0, 109, 99),
        factory.region(110, 20, 199, 60, RegionSpatialFormat=3, RegionDataType=4),
        factory.region(110, 61, 200, 100, RegionSpatialFormat=5, RegionDataType=9),
    ]
    path = factory.save(factory.ultrasound(IMAGE, SequenceOfUltrasoundRegions=items), tmp_path / "r.dcm")
    details = json.loads(json.dumps(next(read(path)).provenance.details))
    assert details["regions"] == [
        {"box": [0, 10, 100, 110], "format": 1, "data_type": 1},
        {"box": [20, 110, 61, 200], "format": 3, "data_type": 4},
        {"box": [61, 110, 100, 200], "format": 5, "data_type": 9},
    ]


@pytest.mark.parametrize(
    "changes",
    [
        *({"RegionLocationMaxX1": 201}, {"RegionLocationMaxY1": 101}, {"RegionLocationMinX0": 150}),
        *({"RegionLocationMinY0": None}, {"RegionSpatialFormat": None}),
    ],
)
def test_one_region_that_cannot_be_right_drops_the_list(factory, tmp_path, changes):
    items = [factory.region(0, 0, 199, 99), factory.region(0, 0, 150, 99, **changes)]
    path = factory.save(factory.ultrasound(IMAGE, SequenceOfUltrasoundRegions=items), tmp_path / "r.dcm")
    assert "regions" not in next(read(path)).provenance.details


def test_a_file_without_regions_says_nothing_of_them(factory):
    assert regions_of(factory.ultrasound(IMAGE), 100, 200) is None
    assert regions_of(factory.ultrasound(IMAGE, SequenceOfUltrasoundRegions=[]), 100, 200) is None


def test_regions_of_real_files(pydicom_file):
    def regions(name):
        return next(read(pydicom_file(name), only=[0])).provenance.details.get("regions")

    assert regions("color3d_jpeg_baseline.dcm") == [{"box": [31, 84, 415, 596], "format": 1, "data_type": 1}]
    assert [region["format"] for region in regions("OBXXXX1A.dcm")] == [1, 4]
    # Resized and cropped after their regions were written.
    assert regions("examples_ybr_color.dcm") is None and regions("examples_palette.dcm") is None

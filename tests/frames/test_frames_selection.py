"""Asked for some frames, a reader gives those, in order and as they are in the whole file, and decodes no others."""

from __future__ import annotations

import io
from fractions import Fraction

import av
import numpy as np
import pytest
import SimpleITK as sitk
from dicom_factory import jpeg, lossless_clip
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image
from pydicom import dcmread, uid
from pydicom.encaps import generate_frames

from sonodistill.errors import UnreadableFileError
from sonodistill.frames import read

COUNT = 6


def write_mkv(path, clip) -> None:
    with av.open(str(path), "w") as output:
        stream = output.add_stream("mpeg4", rate=50)
        stream.width, stream.height, stream.pix_fmt = clip.shape[2], clip.shape[1], "yuv420p"
        stream.time_base = stream.codec_context.time_base = Fraction(1, 1000)
        for number, image in enumerate(clip):
            frame = av.VideoFrame.from_ndarray(image, format="gray")
            frame.pts, frame.time_base = 100 + 30 * number**2, Fraction(1, 1000)
            output.mux(stream.encode(frame))
        output.mux(stream.encode())


def halves(encoded) -> list[bytes]:
    """Each encoded frame in two fragments of even length."""
    return [half for data in encoded for half in (data[: len(data) // 4 * 2], data[len(data) // 4 * 2 :])]


@pytest.fixture(scope="session")
def sources(tmp_path_factory, factory):
    """A file of six frames of each kind that decodes in its own way."""
    folder = tmp_path_factory.mktemp("sources")
    clip = np.random.default_rng(0).integers(0, 256, (COUNT, 24, 32), np.uint8)
    colours = np.repeat(clip[..., None], 3, axis=-1)
    encoded = [jpeg(image) for image in colours]

    def jpegs(name, pieces, **options):
        ds = factory.ultrasound(colours, photometric="YBR_FULL_422", FrameTime="20")
        factory.save(factory.encapsulated(ds, uid.JPEGBaseline8Bit, pieces, **options), folder / name)

    jpegs("jpeg.dcm", encoded)
    jpegs("jpeg_no_table.dcm", encoded, offset_table=False)
    jpegs("jpeg_fragments.dcm", halves(encoded), offset_table=False)
    factory.save(factory.ultrasound(clip, FrameTimeVector=[0, 10, 20, 5, 5, 40]), folder / "native.dcm")
    lossless_clip(folder / "jpegls.dcm", clip)
    ds = dcmread(folder / "jpegls.dcm")
    pieces = halves(generate_frames(ds.PixelData, number_of_frames=COUNT))
    factory.save(
        factory.encapsulated(ds, uid.JPEGLSLossless, pieces, offset_table=False), folder / "jpegls_fragments.dcm"
    )
    lossless_clip(folder / "rle.dcm", clip, syntax=uid.RLELossless)
    write_mkv(folder / "video.mkv", clip)
    pages = [Image.fromarray(image) for image in clip]
    pages[0].save(folder / "pages.tif", save_all=True, append_images=pages[1:])
    sitk.WriteImage(sitk.GetImageFromArray(clip), folder / "slices.mha")
    sitk.WriteImage(sitk.GetImageFromArray(clip), folder / "slices.nrrd", useCompression=True)
    return folder


NAMES = [
    *("jpeg.dcm", "jpeg_no_table.dcm", "jpeg_fragments.dcm", "native.dcm"),
    *("jpegls.dcm", "jpegls_fragments.dcm", "rle.dcm", "video.mkv", "pages.tif", "slices.mha", "slices.nrrd"),
]


@pytest.mark.parametrize("name", NAMES)
@settings(max_examples=12, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(only=st.lists(st.integers(0, COUNT - 1), max_size=COUNT + 2))
def test_only_gives_the_frames_that_reading_all_of_them_gives(sources, name, only):
    whole = list(read(sources / name))
    assert len(whole) == COUNT
    some = list(read(sources / name, only=only))
    assert [frame.index for frame in some] == sorted(set(only))
    for frame in some:
        np.testing.assert_array_equal(frame.image, whole[frame.index].image)
        assert frame.time_ms == whole[frame.index].time_ms
        assert frame.provenance == whole[frame.index].provenance


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("stray", [COUNT, -1])
def test_a_frame_that_the_file_does_not_hold_is_named_after_those_it_holds(sources, name, stray):
    frames = read(sources / name, only={1, stray})
    assert next(frames).index == 1
    with pytest.raises(UnreadableFileError, match=f"has no frame {stray}") as raised:
        next(frames)
    assert (f"holds {COUNT}" in raised.value.remedy) == (stray == COUNT)


def test_a_still_is_its_frame_0(tmp_path):
    Image.fromarray(np.zeros((4, 5), np.uint8)).save(tmp_path / "a.png")
    assert [frame.index for frame in read(tmp_path / "a.png", only=[0])] == [0]
    with pytest.raises(UnreadableFileError, match="has no frame 1"):
        next(read(tmp_path / "a.png", only=[1]))


@pytest.mark.parametrize("offset_table", [True, False])
def test_damaged_frames_are_passed_over_unread(factory, tmp_path, speckle, offset_table):
    encoded = [jpeg(image) for image in speckle]
    encoded[1] = b"\xff\xd8" + b"\0" * 40
    ds = factory.encapsulated(factory.ultrasound(speckle), uid.JPEGBaseline8Bit, encoded, offset_table=offset_table)
    path = factory.save(ds, tmp_path / "x.dcm")
    assert [frame.index for frame in read(path, only={0, 2, 3})] == [0, 2, 3]
    with pytest.raises(UnreadableFileError, match="frame 2 of 4 cannot be decoded"):
        next(read(path, only={1}))


def test_the_header_is_refused_whichever_frames_are_asked_for(factory, tmp_path, speckle):
    path = factory.save(factory.ultrasound(speckle), tmp_path / "cut.dcm")
    path.write_bytes(path.read_bytes()[:-100])
    for only in ([], [0]):
        with pytest.raises(UnreadableFileError, match="truncated"):
            list(read(path, only=only))


def test_a_video_is_decoded_no_further_than_the_last_frame_wanted(sources, tmp_path):
    data = (sources / "video.mkv").read_bytes()
    whole = next(read(sources / "video.mkv"))
    (tmp_path / "cut.mkv").write_bytes(data[: len(data) // 2])
    (first,) = read(tmp_path / "cut.mkv", only=[0])
    np.testing.assert_array_equal(first.image, whole.image)


def test_one_frame_of_a_long_clip_reads_its_own_bytes(factory, tmp_path, monkeypatch):
    from sonodistill.frames import encapsulated

    image = np.random.default_rng(1).integers(0, 256, (64, 64), np.uint8)
    ds = factory.ultrasound(image[None])
    ds.NumberOfFrames = 300
    path = factory.save(factory.encapsulated(ds, uid.JPEGBaseline8Bit, [jpeg(image)] * 300), tmp_path / "long.dcm")
    handed_out = []
    original = encapsulated.generate_frames

    def counting(*args, **kwargs):
        for data in original(*args, **kwargs):
            handed_out.append(len(data))
            yield data

    monkeypatch.setattr(encapsulated, "generate_frames", counting)
    (frame,) = read(path, only=[299])
    assert frame.index == 299
    assert len(handed_out) == 1


def test_an_encapsulated_video_gives_the_frames_wanted(factory, tmp_path):
    buffer = io.BytesIO()
    with av.open(buffer, "w", format="mpegts") as output:
        stream = output.add_stream("mpeg2video", rate=25)
        stream.width, stream.height, stream.pix_fmt = 64, 48, "yuv420p"
        for level in range(40, 220, 30):
            frame = av.VideoFrame.from_ndarray(np.full((48, 64), level, np.uint8), format="gray")
            output.mux(stream.encode(frame))
        output.mux(stream.encode())
    data = buffer.getvalue() + b"\0" * (len(buffer.getvalue()) % 2)
    ds = factory.ultrasound(np.zeros((6, 48, 64, 3), np.uint8), photometric="YBR_PARTIAL_420", CineRate=25)
    path = factory.save(factory.encapsulated(ds, uid.MPEG2MPML, [data], offset_table=False), tmp_path / "v.dcm")
    whole, some = list(read(path)), list(read(path, only=[4, 1]))
    assert [(frame.index, frame.time_ms) for frame in some] == [(1, 40.0), (4, 160.0)]
    for frame in some:
        np.testing.assert_array_equal(frame.image, whole[frame.index].image)
        np.testing.assert_array_equal(frame.rgb(), whole[frame.index].rgb())
        assert frame.rgb().shape == (48, 64, 3)


@pytest.mark.parametrize(
    "name", ["video/sonosite-anon-eye1-video.mp4", "volumes/SpinePhantomFreehandReconstructed.mha"]
)
def test_real_files_give_the_frames_wanted(shared, name):
    path = shared / "data" / "raw" / name
    wanted = {3, 50, 97}
    whole = {frame.index: frame for frame in read(path) if frame.index in wanted}
    some = list(read(path, only=wanted))
    assert [frame.index for frame in some] == [3, 50, 97]
    for frame in some:
        np.testing.assert_array_equal(frame.image, whole[frame.index].image)
        assert frame.time_ms == whole[frame.index].time_ms

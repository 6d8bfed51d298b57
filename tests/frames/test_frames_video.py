"""Videos give their luma and their own time stamps."""

from __future__ import annotations

from fractions import Fraction

import av
import numpy as np
import pytest
from PIL import Image

from sonodistill.errors import UnreadableFileError
from sonodistill.frames import read

LEVELS = np.arange(16, 236, 20)


def write_video(path, *, pixels="yuv420p", codec="mpeg4", stamps=None) -> None:
    """Frames of constant Y, one for each of LEVELS, at 50 frames a second or at ``stamps`` (ms)."""
    with av.open(str(path), "w") as output:
        stream = output.add_stream(codec, rate=50)
        stream.width, stream.height, stream.pix_fmt = 64, 48, pixels
        tick = Fraction(1, 1000) if stamps else Fraction(1, 50)
        stream.time_base = stream.codec_context.time_base = tick
        stream.codec_context.qmin, stream.codec_context.qmax = 1, 2
        for number, level in enumerate(LEVELS):
            frame = av.VideoFrame(64, 48, pixels)
            frame.planes[0].update(np.full(frame.planes[0].buffer_size, level, np.uint8).tobytes())
            for plane in list(frame.planes)[1:]:
                plane.update(np.full(plane.buffer_size, 128, np.uint8).tobytes())
            frame.pts, frame.time_base = stamps[number] if stamps else number, tick
            output.mux(stream.encode(frame))
        output.mux(stream.encode())


@pytest.mark.parametrize("suffix", ["mp4", "mov", "avi", "mkv"])
def test_video_range_luma_is_expanded_to_gray(tmp_path, suffix):
    write_video(tmp_path / f"v.{suffix}")
    frames = list(read(tmp_path / f"v.{suffix}"))
    expected = (LEVELS - 16) * 255 / 219
    np.testing.assert_allclose([frame.image.mean() for frame in frames], expected, atol=3)
    assert frames[0].image.shape == (48, 64) and frames[0].image.dtype == np.uint8
    np.testing.assert_allclose([frame.time_ms for frame in frames], 20.0 * np.arange(len(LEVELS)), atol=1)
    assert frames[0].provenance.frames == (None if suffix == "mkv" else len(LEVELS))
    assert frames[0].calibration.note == "video container carries no physical scale"


def test_full_range_luma_stays_as_it_is(tmp_path):
    write_video(tmp_path / "v.mov", pixels="yuvj420p", codec="mjpeg")
    np.testing.assert_allclose([frame.image.mean() for frame in read(tmp_path / "v.mov")], LEVELS, atol=2)


def test_uneven_time_stamps_are_kept(tmp_path):
    stamps = np.cumsum([40, 20, 30, 100, 20, 20, 60, 20, 20, 20, 20]).tolist()
    write_video(tmp_path / "v.mkv", stamps=stamps)
    times = [frame.time_ms for frame in read(tmp_path / "v.mkv")]
    np.testing.assert_allclose(times, np.array(stamps) - stamps[0], atol=1)


def test_videos_are_read_lazily(tmp_path):
    write_video(tmp_path / "v.mkv")
    frames = read(tmp_path / "v.mkv")
    assert next(frames).index == 0
    frames.close()


def test_broken_videos_are_refused(tmp_path):
    write_video(tmp_path / "v.mp4")
    data = (tmp_path / "v.mp4").read_bytes()
    (tmp_path / "cut.mp4").write_bytes(data[: len(data) // 2])
    (tmp_path / "text.avi").write_text("no video " * 50)
    for name in ("cut.mp4", "text.avi"):
        with pytest.raises(UnreadableFileError):
            list(read(tmp_path / name))


def test_sound_alone_is_refused(tmp_path):
    with av.open(str(tmp_path / "sound.mkv"), "w") as output:
        stream = output.add_stream("pcm_s16le", rate=8000)
        frame = av.AudioFrame.from_ndarray(np.zeros((1, 800), np.int16), format="s16", layout="mono")
        frame.sample_rate = 8000
        output.mux(stream.encode(frame))
    with pytest.raises(UnreadableFileError, match="no video stream"):
        next(read(tmp_path / "sound.mkv"))


@pytest.mark.parametrize(
    ("name", "shape", "count", "step"),
    [
        ("clarius-ocular-short.mp4", (960, 1280), 50, 40.0),
        ("sonosite-anon-eye1-video.mp4", (720, 960), 100, 40.0),
    ],
)
def test_real_clips(shared, name, shape, count, step):
    times = []
    for frame in read(shared / "data" / "raw" / "video" / name):
        assert frame.image.shape == shape
        times.append(frame.time_ms)
    assert times == pytest.approx([step * index for index in range(count)])
    assert frame.provenance.frames == count


def test_an_animated_gif_is_a_clip_with_its_exact_gray_levels_and_times(tmp_path):
    pictures = [np.random.default_rng(number).integers(0, 256, (40, 52), dtype=np.uint8) for number in range(4)]
    first, *rest = (Image.fromarray(picture) for picture in pictures)
    first.save(tmp_path / "clip.gif", save_all=True, append_images=rest, duration=100)
    frames = list(read(tmp_path / "clip.gif"))
    assert [frame.time_ms for frame in frames] == [0.0, 100.0, 200.0, 300.0]
    for frame, picture in zip(frames, pictures, strict=True):
        np.testing.assert_array_equal(frame.image, picture)


def test_an_mpeg_program_stream_is_a_clip(tmp_path):
    with av.open(str(tmp_path / "clip.mpg"), "w", format="mpeg") as container:
        stream = container.add_stream("mpeg1video", rate=25)
        stream.width, stream.height, stream.pix_fmt = 80, 64, "yuv420p"
        for level in (60, 120, 180):
            picture = av.VideoFrame.from_ndarray(np.full((64, 80, 3), level, np.uint8), "rgb24")
            container.mux(stream.encode(picture))
        container.mux(stream.encode())
    frames = list(read(tmp_path / "clip.mpg"))
    assert [round(frame.time_ms) for frame in frames] == [0, 40, 80]
    for frame, level in zip(frames, (60, 120, 180), strict=True):
        assert abs(float(frame.image.mean()) - level) < 4

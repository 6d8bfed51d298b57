"""Video files as cines: frames, colours and time stamps as PyAV gives them."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path

import numpy as np
import pytest

if importlib.util.find_spec("slicer_core") is None or importlib.util.find_spec("av") is None:
    pytest.skip("slicer-core or PyAV is not installed", allow_module_level=True)

from fractions import Fraction

import av
from UltrasoundSegmentLib.frames.image import luma, pixels
from UltrasoundSegmentLib.frames.read import read
from UltrasoundSegmentLib.frames.video import VideoError, has_colour, load_video


def scenes(count: int = 10, colour: bool = False) -> np.ndarray:
    """(N, 48, 64, 3): bright on top, a bar that moves to the right; in colour a red patch from frame 4 on."""
    frames = np.zeros((count, 48, 64, 3), np.uint8)
    frames[:] = np.linspace(200, 40, 48).astype(np.uint8)[None, :, None, None]
    for index in range(count):
        frames[index, :, 4 * index : 4 * index + 4] = 250
        if colour and index >= 4:
            frames[index, 10:30, 40:60] = (220, 20, 20)
    return frames


def written(path: Path, frames: np.ndarray, stamps: list[int] | None = None) -> Path:
    """A file of time stamps in 1/1000 s, every 40 ms by default."""
    with av.open(str(path), "w") as file:
        stream = file.add_stream("mpeg4", rate=25)
        stream.width, stream.height, stream.pix_fmt = frames.shape[2], frames.shape[1], "yuv420p"
        stream.bit_rate = 4_000_000
        stream.codec_context.time_base = Fraction(1, 1000)
        for index, values in enumerate(frames):
            picture = av.VideoFrame.from_ndarray(values, format="rgb24")
            picture.pts, picture.time_base = (stamps or range(0, 10**6, 40))[index], Fraction(1, 1000)
            for packet in stream.encode(picture):
                file.mux(packet)
        for packet in stream.encode():
            file.mux(packet)
    return path


def test_a_gray_video_is_one_channel_with_its_times(scene, tmp_path):
    cine = load_video(written(tmp_path / "scan.mp4", scenes()), scene)
    assert cine.count == 10
    assert cine.volume(0).IsA("vtkMRMLScalarVolumeNode")
    assert not cine.volume(0).IsA("vtkMRMLVectorVolumeNode")
    assert cine.times() == pytest.approx([0.04 * index for index in range(10)])
    for index in (0, 9):
        assert np.abs(cine.frame(index).image.astype(int) - scenes()[index, ..., 0]).mean() < 6
    assert cine.frame(0).image[2].mean() > cine.frame(0).image[-3].mean() + 80


def test_uneven_times_are_kept(scene, tmp_path):
    stamps = [0, 40, 120, 130, 400, 440, 480, 520, 560, 1000]
    cine = load_video(written(tmp_path / "scan.mkv", scenes(), stamps), scene)
    assert cine.times() == pytest.approx([stamp / 1000 for stamp in stamps], abs=2e-3)
    assert cine.calibration.time_source == "video timestamps"


def test_a_video_with_flow_is_in_colour_from_its_first_frame(scene, tmp_path):
    cine = load_video(written(tmp_path / "flow.avi", scenes(17, colour=True)), scene)
    assert cine.count == 17
    assert all(cine.volume(index).IsA("vtkMRMLVectorVolumeNode") for index in range(17))
    red = pixels(cine.volume(12))[20, 50].astype(int)
    assert red[0] - red[1:].max() > 100
    np.testing.assert_array_equal(cine.frame(12).image, luma(pixels(cine.volume(12))))


def test_tint_and_small_marks_are_no_colour():
    gray = np.full((90, 120, 3), 90, np.uint8)
    gray[..., 2] += 20
    gray[:2, :2] = (255, 0, 0)
    assert not has_colour(gray)
    gray[20:40, 20:40] = (255, 0, 0)
    assert has_colour(gray)


def test_a_video_has_no_scale(scene, tmp_path):
    cine = read(written(tmp_path / "scan.mp4", scenes()), scene)
    known = cine.calibration
    assert (known.spacing_mm, known.source) == (None, "none")
    assert any("ruler" in warning for warning in known.warnings)


def test_what_is_no_video_says_so_and_leaves_nothing(scene, tmp_path):
    whole = written(tmp_path / "scan.mp4", scenes()).read_bytes()
    (tmp_path / "text.mp4").write_text("no video")
    (tmp_path / "torn.mp4").write_bytes(whole[: len(whole) // 3])
    before = scene.GetNumberOfNodes()
    for name in ("text.mp4", "torn.mp4", "nowhere.mp4"):
        with pytest.raises(VideoError, match=f"“{name}”"):
            load_video(tmp_path / name, scene)
    assert scene.GetNumberOfNodes() == before


def test_without_the_runtime_it_says_what_to_install(scene, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "sonodistill.frames.video", None)
    with pytest.raises(VideoError, match="pip install"):
        load_video(tmp_path / "scan.mp4", scene)


def test_a_real_clip_has_the_frames_that_pyav_decodes(scene, shared):
    path = shared / "data/raw/video/sonosite-anon-eye1-video.mp4"
    if not path.is_file():
        pytest.skip("no video")
    cine = load_video(path, scene)
    with av.open(str(path)) as file:
        start, index = None, -1
        for index, picture in enumerate(file.decode(video=0)):
            if index in (0, 50):
                np.testing.assert_array_equal(cine.frame(index).image, picture.to_ndarray(format="gray"))
            start = picture.time if start is None else start
            assert cine.time(index) == pytest.approx(picture.time - start)
    assert cine.count == index + 1

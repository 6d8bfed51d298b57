"""Models on this machine: a real process with a real runtime and a tiny ONNX model."""

from __future__ import annotations

import importlib.util
import io
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

if importlib.util.find_spec("slicer_core") is None:
    pytest.skip("slicer-core is not installed", allow_module_level=True)
if importlib.util.find_spec("onnxruntime") is None:
    pytest.skip("onnxruntime is not installed", allow_module_level=True)

from onnx_case import write_model
from UltrasoundSegmentLib.backends import worker
from UltrasoundSegmentLib.backends.local import LocalBackend, NotInstalledError
from UltrasoundSegmentLib.backends.model import Backend, BackendError, Cancel, Prompts, Result
from UltrasoundSegmentLib.errors import Cancelled
from UltrasoundSegmentLib.frames.frame import Frame

SHAPE = (64, 80)


def image(shift: int = 0, *, dark: bool = False) -> np.ndarray:
    """Two bright squares on gray, the left one moved by ``shift``; a dark one below on demand."""
    values = np.full(SHAPE, 90, np.uint8)
    values[10:30, 10 + shift : 30 + shift] = 220
    values[10:25, 55:70] = 210
    if dark:
        values[40:60, 30:50] = 5
    return values


def frame(index: int = 0, shift: int = 0, *, dark: bool = False) -> Frame:
    return Frame(image(shift, dark=dark), index, None, np.eye(4), f"x#{index}")


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_model(tmp_path_factory.mktemp("model") / "bright.onnx")


@pytest.fixture(scope="module")
def backend(model: Path) -> Iterator[LocalBackend]:
    made = LocalBackend([model], threads=1, python=[sys.executable])
    yield made
    made.close()


def test_it_offers_what_its_files_hold(backend: LocalBackend) -> None:
    assert isinstance(backend, Backend)
    offered = backend.models(Cancel())
    assert [(one.id, one.kind, one.labels) for one in offered] == [
        ("bright.onnx", "segmentation", ("bright",)),
        ("parts of bright.onnx", "interactive", ()),
    ]


def test_a_frame_is_segmented_with_a_confidence(backend: LocalBackend) -> None:
    result = backend.segment(frame(), "bright.onnx", Cancel())
    assert np.array_equal(result.mask, (image() > 140).astype(np.uint8)) and result.model == "bright.onnx"
    assert result.confidence is not None and 0.9 < result.confidence <= 1


def test_a_model_with_a_warning_score_says_it_and_another_says_nothing(backend: LocalBackend, tmp_path: Path) -> None:
    path = write_model(tmp_path / "scored.onnx", familiar=120.0)
    scored = LocalBackend([path], threads=1, python=[sys.executable])
    bright = Frame(np.full(SHAPE, 180, np.uint8), 0, None, np.eye(4), "bright")
    try:
        known, strange = (scored.segment(one, "scored.onnx", Cancel()) for one in (frame(), bright))
        again = scored.refine(bright, Prompts(positive=((5.0, 5.0),)), None, "scored.onnx", Cancel())
    finally:
        scored.close()
    assert known.unfamiliarity == pytest.approx(image().mean() / 120, rel=1e-3)
    assert strange.unfamiliarity == again.unfamiliarity == pytest.approx(1.5, rel=1e-3)
    assert np.array_equal(known.mask, backend.segment(frame(), "bright.onnx", Cancel()).mask)
    assert backend.segment(bright, "bright.onnx", Cancel()).unfamiliarity is None


def test_numbers_are_those_of_the_labels(tmp_path: Path) -> None:
    path = write_model(tmp_path / "two.onnx", ("bright", "dark"), (140.0, -50.0))
    backend = LocalBackend([path], threads=1, python=[sys.executable])
    try:
        mask = backend.segment(frame(dark=True), "two.onnx", Cancel()).mask
        assert backend.models(Cancel())[0].labels == ("bright", "dark")
    finally:
        backend.close()
    values = image(dark=True)
    assert np.array_equal(mask, np.where(values > 140, 1, np.where(values < 50, 2, 0)))


def test_a_click_chooses_a_part_and_leaves_other_labels(backend: LocalBackend) -> None:
    previous = np.zeros(SHAPE, np.uint8)
    previous[50:, :] = 2
    result = backend.refine(frame(), Prompts(positive=((20.0, 20.0),)), previous, "parts of bright.onnx", Cancel())
    expected = previous.copy()
    expected[10:30, 10:30] = 1
    assert np.array_equal(result.mask, expected) and result.info["how"] == "parts of the segmentation"


def test_a_negative_click_takes_a_part_away_and_a_box_cuts(backend: LocalBackend) -> None:
    result = backend.refine(frame(), Prompts(negative=((60.0, 15.0),), label=3), None, "bright.onnx", Cancel())
    assert (result.mask[10:30, 10:30] == 3).all() and (result.mask > 0).sum() == 400
    boxed = backend.refine(frame(), Prompts(box=(0.0, 0.0, 19.0, 63.0)), None, "bright.onnx", Cancel())
    assert (boxed.mask[10:30, 10:20] == 1).all() and boxed.mask.sum() == 200


def test_a_click_beside_everything_says_what_clicks_can_do_here(backend: LocalBackend) -> None:
    with pytest.raises(BackendError, match="choose among the parts"):
        backend.refine(frame(), Prompts(positive=((2.0, 60.0),)), None, "bright.onnx", Cancel())


def test_a_part_is_followed_through_frames_under_its_own_label(backend: LocalBackend) -> None:
    frames = [frame(index, shift=2 * index) for index in range(6)]
    start = np.zeros(SHAPE, np.uint8)
    start[10:30, 10:30] = 4
    found: dict[int, Result] = {}
    assert backend.propagate(frames, start, "bright.onnx", Cancel(), found.__setitem__) == ""
    assert sorted(found) == [1, 2, 3, 4, 5]
    for index, result in found.items():
        expected = np.zeros(SHAPE, np.uint8)
        expected[10:30, 10 + 2 * index : 30 + 2 * index] = 4
        assert np.array_equal(result.mask, expected)


def test_following_stops_where_the_part_is_gone_or_elsewhere(backend: LocalBackend) -> None:
    frames = [frame(0), frame(1, 2), frame(2, 24), frame(3, 24)]
    start = np.zeros(SHAPE, np.uint8)
    start[10:30, 10:30] = 1
    found: list[int] = []
    why = backend.propagate(frames, start, "bright.onnx", Cancel(), lambda index, _: found.append(index))
    assert found == [1] and "frame 3" in why


def test_a_cancel_ends_the_process_and_the_next_request_starts_another(model: Path) -> None:
    backend, cancel = LocalBackend([model], threads=1, python=[sys.executable]), Cancel()
    try:
        threading.Timer(0.05, cancel.cancel).start()
        with pytest.raises(Cancelled):
            backend.models(cancel)  # a start takes longer than that
        assert backend.segment(frame(), "bright.onnx", Cancel()).mask.any()
        with pytest.raises(Cancelled):
            backend.segment(frame(), "bright.onnx", cancel)
    finally:
        backend.close()


def test_a_process_that_died_is_started_again(backend: LocalBackend) -> None:
    backend.segment(frame(), "bright.onnx", Cancel())
    process = backend._process
    assert process is not None
    process.kill()
    process.wait()
    assert backend.segment(frame(), "bright.onnx", Cancel()).mask.any()


def test_a_file_that_is_not_there_is_named() -> None:
    with pytest.raises(BackendError, match="no file"):
        LocalBackend("x.onnx").models(Cancel())


def test_last_words_of_a_process_that_cannot_start(model: Path) -> None:
    backend = LocalBackend([model], python=[sys.executable, "-c", "import sys; sys.exit('no such engine')"])
    with pytest.raises(BackendError, match="no such engine"):
        backend.models(Cancel())


def test_a_missing_runtime_is_named_with_what_to_install(model: Path) -> None:
    start = "import sys, runpy; sys.modules['sonodistill'] = None; runpy.run_path(sys.argv[1], run_name='__main__')"
    backend = LocalBackend([model], python=[sys.executable, "-c", start])
    try:
        with pytest.raises(NotInstalledError, match=r'pip_install\("sonodistill"\)') as caught:
            backend.models(Cancel())
        assert caught.value.requirement == "sonodistill"
    finally:
        backend.close()


def test_a_missing_runtime_of_openvino_is_named_as_that(tmp_path: Path) -> None:
    if importlib.util.find_spec("openvino") is not None:
        pytest.skip("openvino is installed")
    (tmp_path / "model.xml").write_text("<net/>")
    backend = LocalBackend(tmp_path / "model.xml", threads=1, python=[sys.executable])
    try:
        with pytest.raises(NotInstalledError) as caught:
            backend.models(Cancel())
        assert caught.value.requirement == "openvino"
    finally:
        backend.close()
    with pytest.raises(BackendError, match="connect again"):
        backend.segment(frame(), "model.xml", Cancel())


def test_a_file_that_is_no_model_is_refused_and_keeps_no_other_from_its_turn(model: Path, tmp_path: Path) -> None:
    (tmp_path / "broken.onnx").write_bytes(b"nothing of the kind")
    (tmp_path / "weights.safetensors").write_bytes(b"")
    paths = [tmp_path / "broken.onnx", tmp_path / "weights.safetensors", model]
    backend = LocalBackend(paths, threads=1, python=[sys.executable])
    try:
        assert [one.id for one in backend.models(Cancel())] == ["bright.onnx", "parts of bright.onnx"]
        with pytest.raises(BackendError, match="could not be run"):
            backend.segment(frame(), "broken.onnx", Cancel())
        with pytest.raises(BackendError, match="no model nosuch"):
            backend.segment(frame(), "nosuch", Cancel())
    finally:
        backend.close()


def test_close_ends_the_process(model: Path) -> None:
    backend = LocalBackend([model], threads=1, python=[sys.executable])
    backend.models(Cancel())
    process = backend._process
    backend.close()
    assert process is not None
    end = time.monotonic() + 10
    while process.poll() is None:
        assert time.monotonic() < end
        time.sleep(0.01)


@pytest.mark.parametrize(
    "sent",
    [b"\0\0", b"\xff\xff\xff\xff", b"\0\0\0\2{}", b"\0\0\0\x0c" + b'{"bytes":-1}', b"\0\0\0\x0c" + b'{"bytes": 9}abc'],
)
def test_what_is_no_message_is_refused(sent: bytes) -> None:
    with pytest.raises(worker.ProtocolError):
        worker.read_message(io.BytesIO(sent))


def test_messages_come_back_as_they_were() -> None:
    stream = io.BytesIO()
    worker.write_message(stream, {"op": "x"}, b"abc")
    worker.write_message(stream, {"op": "y"})
    stream.seek(0)
    assert worker.read_message(stream) == ({"op": "x", "bytes": 3}, b"abc")
    assert worker.read_message(stream) == ({"op": "y", "bytes": 0}, b"")
    assert worker.read_message(stream) is None

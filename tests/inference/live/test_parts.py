"""What a live session is made of: the inbox, the smoothing, the percentiles, the writer, devices and paced files."""

from __future__ import annotations

import csv
import gc
import threading
import time
from itertools import islice
from pathlib import Path
from threading import Event

import av
import cv2
import numpy as np
import pytest
from pydicom import examples

from sonodistill.frames import Calibration, Frame, Provenance
from sonodistill.inference.files import OutputError
from sonodistill.inference.live import writer as writer_module
from sonodistill.inference.live.inbox import ClosedError, Inbox
from sonodistill.inference.live.report import Latencies
from sonodistill.inference.live.smoothing import Smoother
from sonodistill.inference.live.source import SourceError, is_live, name_of, open_source
from sonodistill.inference.live.writer import COLUMNS, MAX_MASKS, Writer


def test_the_latest_replaces_the_older_ones():
    inbox = Inbox("latest")
    assert all(inbox.put(n) for n in range(1000))
    assert inbox.get(0).item == 999 and inbox.get(0) is None
    assert (inbox.received, inbox.dropped, inbox.unfinished) == (1000, 999, 0)


def test_without_dropping_who_puts_waits_and_order_is_kept():
    inbox, most = Inbox("none"), 0
    thread = threading.Thread(target=lambda: [inbox.put(n) for n in range(50)])
    thread.start()
    got = []
    while len(got) < 50:
        got.append(inbox.get(5).item)
        most = max(most, inbox.received - len(got))
    thread.join()
    assert got == list(range(50)) and inbox.dropped == inbox.late == 0
    assert most <= 6  # four that wait, one that waits for room


def test_what_waited_longer_than_the_budget_is_late_but_for_the_policy_that_drops_nothing():
    for policy, late in (("latest", 1), ("none", 0)):
        inbox = Inbox(policy, 0.01)
        inbox.put("old")
        time.sleep(0.02)
        assert (inbox.get(0) is None) == bool(late) and inbox.late == late


def test_a_closed_inbox_lets_go_of_who_puts_and_counts_what_was_left():
    inbox = Inbox("none")
    thread = threading.Thread(target=lambda: [inbox.put(n) for n in range(20)])
    thread.start()
    while inbox.received < 5:
        time.sleep(0.001)
    inbox.close()
    thread.join(5)
    assert not thread.is_alive()
    assert (inbox.received, inbox.unfinished) == (5, 5) and not inbox.put(1)
    with pytest.raises(ClosedError):
        inbox.get(0)


def test_what_waits_is_handed_out_before_the_error_that_ended_the_source():
    inbox = Inbox("none")
    inbox.put(1)
    inbox.end(SourceError("gone"))
    assert inbox.get(0).item == 1
    with pytest.raises(SourceError, match="gone"):
        inbox.get(0)


def test_smoothing_is_the_moving_average_of_a_plain_loop(cine):
    frames = [frame.image.astype(np.float32) / 255 for frame in cine[:8]]
    times = [0.0, 40.0, 80.0, 200.0, 233.0, 250.0, 400.0, 440.0]
    smoother = Smoother(0.6)
    past = None
    for n, (frame, time_ms) in enumerate(zip(frames, times, strict=True)):
        kept = 0.0 if n == 0 else 0.6 ** ((time_ms - times[n - 1]) / 40)
        past = frame if past is None else kept * past + (1 - kept) * frame
        smooth = smoother(frame, time_ms)
        assert smooth.dtype == np.float32 and np.allclose(smooth, past, atol=1e-6)


def test_without_weight_smoothing_changes_nothing(cine):
    frame = cine[0].image.astype(np.float32)
    smoother = Smoother(0.0)
    assert smoother(frame * 0, 0.0).max() == 0 and smoother(frame, 40.0) is frame


@pytest.mark.parametrize(
    ("shape", "time_ms"), [((5, 4), 140.0), ((4, 5), 601.0), ((4, 5), 100.0), ((4, 5), 20.0)], ids=str
)
def test_smoothing_starts_anew_where_size_or_time_jumps(shape, time_ms):
    smoother = Smoother(0.9)
    smoother(np.ones((4, 5), np.float32), 100.0)
    assert smoother(np.zeros(shape, np.float32), time_ms).max() == 0


def test_frames_in_between_change_the_smoothing_little():
    # A step from 0 to 1 seen at every frame or at every second one: the same at the frames that both have.
    every, second = Smoother(0.7), Smoother(0.7)
    zero, one = np.zeros((1, 1), np.float32), np.ones((1, 1), np.float32)
    every(zero, 0.0), second(zero, 0.0)
    for n in range(1, 9):
        dense = every(one, 40.0 * n)
        if n % 2 == 0:
            assert np.allclose(second(one, 40.0 * n), dense, atol=1e-6)


def test_the_budget_is_held_exactly_when_p95_is_within_it():
    generator = np.random.default_rng(0)
    for count in (1, 19, 20, 21, 99, 100, 137):
        latencies = Latencies(50)
        for value in generator.uniform(0, 52, count).tolist():
            latencies.add(value)
        p50, p95, largest = latencies.percentiles(50, 95, 100)
        assert p50 <= p95 <= largest and latencies.held(0) == (p95 <= 50)
    assert latencies.held(count) is False  # as many late frames as results
    assert Latencies(50).percentiles(50, 95) == [None, None] and Latencies(50).held(0) is None
    assert Latencies(50).held(3) is False


def frame_of(image, index):
    return Frame(image, index, 40.0 * index, Calibration((0.5, 0.2)), Provenance(Path("x"), "live"))


def test_every_row_follows_its_mask_and_the_table_grows_as_results_come(tmp_path):
    out = tmp_path / "out"
    mask = np.eye(20, 30, dtype=bool)[None]
    with Writer(out, "device:x", "x", ["lesion"]) as writer:
        for n in range(3):
            writer.put(frame_of(np.zeros((20, 30), np.uint8), n), mask, 12.3456)
            while not (out / "index.csv").exists() or len((out / "index.csv").read_text().splitlines()) < n + 2:
                time.sleep(0.002)
            rows = list(csv.DictReader((out / "index.csv").open()))
            assert cv2.imread(str(out / rows[-1]["file"]), cv2.IMREAD_UNCHANGED).sum() == 20 * 255
    assert tuple(rows[2]) == COLUMNS
    assert list(rows[2].values()) == ["x_00002_mask.png", "device:x", "2", "80.0", "12.346", "20", "2.0", "lesion"]


def test_a_slow_disk_costs_masks_which_are_counted_and_never_holds_up_the_model(tmp_path, monkeypatch):
    go = Event()
    write = writer_module.write_mask
    monkeypatch.setattr(writer_module, "write_mask", lambda *a: (go.wait(10), write(*a)))
    monkeypatch.setattr(writer_module, "MAX_ROWS", 50)
    with Writer(tmp_path, "device:x", "x", ["lesion"]) as writer:
        for n in range(100):
            writer.put(frame_of(np.zeros((8, 8), np.uint8), n), np.ones((1, 8, 8), bool), 1.0)
        go.set()
    rows = list(csv.DictReader((tmp_path / "index.csv").open()))
    written = [row for row in rows if row["file"]]
    assert MAX_MASKS <= len(written) <= MAX_MASKS + 1  # one was in work
    assert len(written) == 100 - writer.masks_not_written == len(list(tmp_path.glob("*.png")))
    assert len(rows) == 100 - writer.rows_not_written and 50 <= len(rows) <= 51


def test_rows_that_wait_hold_no_frames(tmp_path, monkeypatch):
    go = Event()
    write = writer_module.write_mask
    monkeypatch.setattr(writer_module, "write_mask", lambda *a: (go.wait(10), write(*a)))

    def held():
        return sum(type(thing) is Frame for thing in gc.get_objects())

    before = held()
    with Writer(tmp_path, "device:x", "x", ["lesion"]) as writer:
        for n in range(60):
            writer.put(frame_of(np.zeros((8, 8), np.uint8), n), np.ones((1, 8, 8), bool), 1.0)
        during = held()
        go.set()
    assert during <= before
    assert len(list(csv.DictReader((tmp_path / "index.csv").open()))) == 60


def test_whatever_ends_the_writer_is_told(tmp_path):
    mask = np.ones((1, 8, 8), bool)
    failing = Writer(tmp_path, "device:x", "x", ["\ud800"])
    deadline = time.monotonic() + 10
    with pytest.raises(OutputError, match="cannot be written .UnicodeEncodeError.*ud800"), failing as writer:
        while time.monotonic() < deadline:
            writer.put(frame_of(np.zeros((8, 8), np.uint8), 0), mask, 1.0)
            time.sleep(0.002)
        pytest.fail("the session would have gone on")


def test_a_source_whose_name_is_no_text_has_its_rows(tmp_path):
    with Writer(tmp_path, "clip\udcff.dcm", "clip\udcff.dcm", ["lesion"]) as writer:
        writer.put(frame_of(np.zeros((8, 8), np.uint8), 0), np.ones((1, 8, 8), bool), 1.0)
    (row,) = csv.DictReader((tmp_path / "index.csv").open(encoding="utf-8", errors="surrogateescape"))
    assert row["source"] == "clip\udcff.dcm" and (tmp_path / row["file"]).is_file()


def test_a_folder_that_cannot_be_used_is_refused_by_name(tmp_path):
    (tmp_path / "index.csv").write_text("")
    with pytest.raises(OutputError, match="earlier session"):
        Writer(tmp_path, "device:x", "x", ["lesion"])
    (tmp_path / "file").write_text("")
    unusable = Writer(tmp_path / "file", "device:x", "x", ["lesion"])
    with pytest.raises(OutputError, match="cannot be written"), unusable as writer:
        writer.put(frame_of(np.zeros((8, 8), np.uint8), 0), np.ones((1, 8, 8), bool), 1.0)


def test_a_capture_device_gives_gray_frames_with_its_times():
    frames = open_source("device:lavfi:testsrc=size=160x120:rate=25").frames(Event())
    got = list(islice(frames, 5))
    frames.close()
    assert [frame.time_ms for frame in got] == pytest.approx([0, 40, 80, 120, 160])
    assert all(frame.image.shape == (120, 160) and frame.image.dtype == np.uint8 for frame in got)
    assert got[0].mm_per_pixel is None and got[0].image.max() == 255 and got[0].image.min() < 16
    weights = np.array([0.299, 0.587, 0.114])
    assert np.abs(got[0].rgb() @ weights - got[0].image).mean() < 2


def test_a_device_that_ends_or_is_told_to_stop_ends_the_frames():
    frames = open_source("device:lavfi:testsrc=size=64x48:rate=25:duration=0.2").frames(Event())
    assert len(list(frames)) == 5
    stop = Event()
    frames = open_source("device:lavfi:testsrc=size=64x48:rate=25").frames(stop)
    next(frames)
    stop.set()
    assert list(frames) == []


@pytest.mark.parametrize(
    ("address", "said"),
    [
        ("device:", "no device is named"),
        ("device:lavfi:", "no device is named"),
        ("device:lavfi:nosuchfilter", "lavfi cannot open 'nosuchfilter'"),
        ("device:lavfi:anullsrc", "gives no picture"),
        ("rtsp://127.0.0.1/x", "no live source that is known"),
    ],
)
def test_a_device_that_is_none_is_refused_by_name(address, said):
    with pytest.raises(SourceError, match=said):
        open_source(address)


def test_only_capture_formats_count_as_a_format(tmp_path):
    video = tmp_path / "a.m3u8"
    video.write_text("#EXTM3U")
    with pytest.raises(SourceError, match="cannot open 'hls:|no capture format"):
        open_source(f"device:hls:{video}")


def test_addresses_are_told_from_files():
    assert is_live("igtl://127.0.0.1:18944/Image") and is_live("device:/dev/video0") and not is_live("igtl.dcm")
    assert name_of("igtl://127.0.0.1:18944/Im age") == "igtl_127.0.0.1_18944_Im_age"
    assert name_of("device:../../etc/passwd") == "device_.._.._etc_passwd"
    assert name_of("folder/clip.dcm") == "clip.dcm"


def test_a_cine_is_played_at_its_own_pace(cine):
    start = time.monotonic()
    got = []
    for frame in islice(open_source(str(examples.get_path("ybr_color"))).frames(Event()), 6):
        got.append(frame.index)
        assert 1000 * (time.monotonic() - start) >= frame.time_ms - 1
    assert got == [0, 1, 2, 3, 4, 5] and frame.time_ms > 0


def test_a_file_without_times_cannot_be_paced():
    with pytest.raises(SourceError, match="frame 1 states no time"):
        next(open_source(str(examples.get_path("rgb_color"))).frames(Event()))


def test_a_video_is_paced_too_and_stops_in_the_middle_of_a_pause(tmp_path):
    path = tmp_path / "slow.mp4"
    with av.open(str(path), "w") as container:
        stream = container.add_stream("mpeg4", rate=1)
        stream.width, stream.height = 64, 48
        for n in range(3):
            picture = av.VideoFrame.from_ndarray(np.full((48, 64, 3), 80 * n, np.uint8), format="rgb24")
            container.mux(stream.encode(picture))
        container.mux(stream.encode())
    stop = Event()
    threading.Timer(0.1, stop.set).start()
    assert len(list(open_source(str(path)).frames(stop))) == 1  # the second is due after a second

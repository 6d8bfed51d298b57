"""What a training shows on a terminal and in a file, and how it obeys signals."""

from __future__ import annotations

import io
import json
import os
import signal
import subprocess
import sys
from contextlib import suppress
from pathlib import Path

import pytest
from rich.console import Console

from sonodistill_training.progress import Clock, cut_log, duration, progress_bar, stopped

CASE = Path(__file__).with_name("stop_case.py")
ROW = {"step": 10, "loss": 1.23456, "images_per_second": 33.64, "data_wait": 0.031, "learning_rate": 1e-4}


def seconds(*values):
    """A clock that says these values, then the last one for ever."""
    queue = list(values)
    return lambda: queue.pop(0) if len(queue) > 1 else queue[0]


def written(total=100, start=0, steps=0, rows=(), clock=None, **console):
    text = io.StringIO()
    with progress_bar(total, start, True, Console(file=text, **console), clock or seconds(0.0)) as bar:
        for _ in range(steps):
            bar.advance()
        for row, monitors in rows:
            bar.show(row, monitors)
    return text.getvalue()


def test_a_file_gets_plain_lines_with_step_loss_speed_wait_and_time_left():
    text = written(steps=11, rows=[(ROW | {"step": 11}, None)], clock=seconds(0.0, 20.0))
    assert text == "step 11/100  loss 1.2346  33.6 images/s  wait 3%  ETA 00:02:58\n"


def test_a_file_gets_a_line_only_every_half_minute_and_always_the_last_one():
    moment = [0.0]
    text = io.StringIO()
    with progress_bar(100, 0, True, Console(file=text), lambda: moment[0]) as bar:
        for step in range(1, 70):
            moment[0] = float(step)
            bar.show(ROW | {"step": step})
    assert [line.split()[1] for line in text.getvalue().splitlines()] == ["1/100", "31/100", "61/100", "69/100"]


def test_a_full_disk_under_the_output_does_not_stop_the_training():
    went_on = False
    with suppress(OSError), Path("/dev/full").open("w") as full:  # closing it fails too
        with progress_bar(100, 0, True, Console(file=full)) as bar:
            bar.show(ROW)
        with pytest.raises(OSError):
            full.flush()
        went_on = True
    assert went_on


def test_a_terminal_gets_one_bar_with_the_figures_and_the_last_monitor_values():
    rows = [(ROW, {"monitor/knn": 0.71234, "monitor/rank": 43.0}), (ROW | {"loss": 1.1}, None)]
    text = written(steps=10, rows=rows, clock=seconds(0.0, 18.0), force_terminal=True, width=90, legacy_windows=False)
    last = text.rsplit("10/100", 1)[1]
    for figure in ("loss 1.1000", "33.6 images/s", "wait 3%", "ETA 00:03:00", "knn 0.7123", "rank 43"):
        assert figure in last


def test_other_processes_than_the_main_one_show_nothing():
    text = io.StringIO()
    with progress_bar(100, 0, False, Console(file=text, force_terminal=True)) as bar:
        bar.advance()
        bar.show(ROW)
    assert text.getvalue() == ""


def test_a_row_without_a_figure_and_a_long_list_of_monitors_are_shown_too():
    text = written(rows=[({"step": 1, "loss": None}, {f"value{n}": float(n) for n in range(6)})])
    assert text == ("step 1/100  loss ?  ? images/s  wait ?  ETA ?  value0 0  value1 1  value2 2  value3 3  ...\n")


def test_time_left_after_going_on_counts_only_the_steps_of_this_process():
    text = written(total=1000, start=900, steps=11, rows=[(ROW | {"step": 911}, None)], clock=seconds(0.0, 10.0))
    assert "ETA 00:01:29" in text  # 10 steps in 10 s, 89 to go


@pytest.mark.parametrize(
    ("value", "text"),
    [(None, "?"), (0.4, "00:00:00"), (3661, "01:01:01"), (86399.7, "1 d 00:00"), (14 * 86400 + 3600 * 5, "14 d 05:00")],
)
def test_durations_from_seconds_to_weeks(value, text):
    assert duration(value) == text


def test_the_clock_reports_a_share_of_waiting_and_starts_anew():
    clock = Clock()
    for _ in clock.waiting([1, 2]):
        clock.count(64)
    report = clock.report()
    assert report["images_per_second"] > 0 and 0 <= report["data_wait"] <= 1
    assert clock.report()["images_per_second"] == 0


def test_the_log_is_cut_at_the_checkpoint_and_before_a_torn_row(tmp_path):
    log = tmp_path / "log.jsonl"
    rows = [json.dumps({"step": step}) + "\n" for step in range(1, 8)]
    log.write_text("".join(rows) + '{"step": 8, "lo')
    cut_log(log, 5)
    assert log.read_text() == "".join(rows[:5])
    log.write_bytes("".join(rows[:3]).encode() + b"\0\0\xff\0")
    cut_log(log, 5)
    assert log.read_text() == "".join(rows[:3])
    log.write_text("".join(rows[:3]) + '{"step": 4}')  # whole, but its end of line is missing
    cut_log(log, 5)
    assert log.read_text() == "".join(rows[:3])


def test_cutting_a_log_that_is_not_there_does_nothing(tmp_path):
    cut_log(tmp_path / "log.jsonl", 5)
    assert list(tmp_path.iterdir()) == []


class Counting:
    """The case in its own process group, read word by word."""

    def __init__(self, workers=0, seconds_in_hand=0.0):
        self.process = subprocess.Popen(
            [sys.executable, str(CASE), str(workers), str(seconds_in_hand)],
            stdout=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )

    def __enter__(self):
        self.wait_for("ready")
        return self

    def __exit__(self, *_):
        if self.process.poll() is None:
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()
        self.process.stdout.close()

    def wait_for(self, word):
        assert self.process.stdout.readline().strip() == word

    def rest(self):
        return self.process.stdout.read().split(), self.process.wait()


@pytest.mark.parametrize(
    ("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143), (signal.SIGUSR1, 128 + signal.SIGUSR1)]
)
def test_a_signal_is_obeyed_after_the_step_named_in_the_exit_code_and_its_handler_restored(number, code):
    with Counting() as counting:
        counting.process.send_signal(number)
        assert counting.rest() == (["saving", "saved", "restored"], code)


def test_a_second_ctrl_c_lets_the_save_end():
    with Counting(seconds_in_hand=0.5) as counting:
        counting.process.send_signal(signal.SIGINT)
        counting.wait_for("saving")
        counting.process.send_signal(signal.SIGINT)
        assert counting.rest() == (["saved", "restored"], 130)


def test_a_third_ctrl_c_ends_a_save_that_hangs():
    with Counting(seconds_in_hand=600) as counting:
        counting.process.send_signal(signal.SIGINT)
        counting.wait_for("saving")
        counting.process.send_signal(signal.SIGINT)
        while counting.process.poll() is None:  # two that come at once are one to the process
            counting.process.send_signal(signal.SIGINT)
            try:
                counting.process.wait(0.2)
            except subprocess.TimeoutExpired:
                continue
        words, code = counting.rest()
        assert words == [] and code in (-signal.SIGINT, 130)


def test_a_signal_to_the_whole_job_leaves_the_data_workers_to_the_training():
    with Counting(workers=1) as counting:
        os.killpg(counting.process.pid, signal.SIGTERM)
        assert counting.rest() == (["saving", "saved", "restored"], 143)


def test_the_first_signal_is_the_one_that_is_named():
    # In a process of its own, whose main thread it is: a signal that is not caught ends the process.
    code = """
import signal
from sonodistill_training.progress import stop_requests
with stop_requests() as stop:
    assert not stop.is_set() and stop.signal_number is None
    signal.raise_signal(signal.SIGUSR1)
    signal.raise_signal(signal.SIGTERM)
    assert stop.is_set() and stop.signal_number == signal.SIGUSR1
"""
    subprocess.run([sys.executable, "-c", code], timeout=60, check=True)


def test_ctrl_c_stays_what_it_is_and_other_signals_become_exit_codes():
    assert isinstance(stopped(signal.SIGINT), KeyboardInterrupt)
    assert stopped(signal.SIGTERM).code == 143 and stopped(signal.SIGUSR1).code == 138

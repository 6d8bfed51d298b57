"""A process that logs and is killed, or whose disk is full for a while; used by the tests of the logs."""

from __future__ import annotations

import json
import logging
import os
import resource
import signal
import sys
from pathlib import Path

from sonodistill_training.logs import Writers


def row(step):
    return {"step": step, "epoch": step / 10, "loss": 1 / step, "images_per_second": 33.5, "data_wait": 0.03}


def log_until_killed(writers, last):
    for step in range(1, last + 1):
        writers.write(row(step))
    os.kill(os.getpid(), signal.SIGKILL)


def log_on_a_full_disk(folder, writers):
    """Tell how many whole rows the files held while nothing could be added to them."""
    hard = resource.getrlimit(resource.RLIMIT_FSIZE)[1]
    resource.setrlimit(resource.RLIMIT_FSIZE, (500, hard))
    for step in range(1, 41):
        writers.write(row(step))
    held = {name: (folder / f"log.{name}").read_text().count("\n") for name in ("jsonl", "csv")}
    resource.setrlimit(resource.RLIMIT_FSIZE, (hard, hard))
    writers.write(row(41))
    writers.close()
    json.dump(held, sys.stdout)


if __name__ == "__main__":
    logging.basicConfig(level=logging.WARNING)
    target, until, *names = sys.argv[1:]
    settings = {"batch_size": 7, "student": {"name": "resnet18"}}
    writers = Writers(target, names, start_step=0, settings=settings)
    if until == "full":
        log_on_a_full_disk(Path(target), writers)
    else:
        log_until_killed(writers, int(until))

"""How a measurement is made and shown: on one core, alternating, as a table or as one line of JSON."""

from __future__ import annotations

import json
import os
import statistics
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import typer
from rich.console import Console
from rich.table import Table


def show(result: Mapping[str, Any], as_json: bool) -> None:
    """Print a result: with ``as_json`` as one JSON object on the last line, else as a table for people."""
    if as_json:
        typer.echo(json.dumps(result))
        return
    table = Table(show_header=False)
    for name, value in result.items():
        table.add_row(name.replace("_", " "), f"{value:,.4g}" if isinstance(value, float) else str(value))
    Console().print(table)


@contextmanager
def one_core() -> Iterator[None]:
    """This process on one core and the libraries on one thread; as before afterwards."""
    import cv2
    import torch

    threads, cv2_threads = torch.get_num_threads(), cv2.getNumThreads()
    cores = os.sched_getaffinity(0) if hasattr(os, "sched_setaffinity") else None
    torch.set_num_threads(1)
    cv2.setNumThreads(1)
    if cores:
        os.sched_setaffinity(0, {max(cores)})
    try:
        yield
    finally:
        torch.set_num_threads(threads)
        cv2.setNumThreads(cv2_threads)
        if cores:
            os.sched_setaffinity(0, cores)


def alternate(works: Mapping[str, Callable[[], int]], rounds: int) -> dict[str, float]:
    """Items a second of processor time of each piece of work (which returns how many it did): median of the rounds.

    They take turns so that a disturbance of the machine meets all of them, and processor time leaves out what other
    processes took; on a quiet machine it is the time of the clock.
    """
    rates: dict[str, list[float]] = {name: [] for name in works}
    for _ in range(rounds):
        for name, work in works.items():
            began = time.process_time()
            count = work()
            rates[name].append(count / (time.process_time() - began))
    return {name: statistics.median(found) for name, found in rates.items()}

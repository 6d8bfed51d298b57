"""Long work in small steps, so that a GUI can go on between them."""

from __future__ import annotations

import threading
from collections.abc import Callable, Generator
from typing import TypeVar

T = TypeVar("T")

Steps = Generator[None, None, T]
"""Work that stops after each step of some milliseconds, and returns its result (``StopIteration.value``) at the end.

A generator that is closed before its end leaves nothing behind in the scene or on disk that was not whole.
"""


def finish(steps: Steps[T]) -> T:
    """Do all of it at once."""
    while True:
        try:
            next(steps)
        except StopIteration as ended:
            result: T = ended.value
            return result


def beside(work: Callable[[], T]) -> Steps[T]:
    """Do what cannot be divided in a thread of its own, a step being a short wait for it, in which it goes on.

    It may touch no MRML. What it raises is raised here. Closed before its end, the steps wait for it.
    """
    results: list[T] = []
    errors: list[BaseException] = []

    def run() -> None:
        try:
            results.append(work())
        except BaseException as error:  # noqa: BLE001 - handed on
            errors.append(error)

    thread = threading.Thread(target=run, name="SonoDistill step", daemon=True)
    thread.start()
    try:
        while thread.is_alive():
            thread.join(0.01)
            yield
    finally:
        thread.join()
    if errors:
        raise errors[0]
    return results[0]

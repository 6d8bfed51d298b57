"""Decoding, inference and what comes after at the same time: each in a thread of its own, in order, within bounds."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Iterator
from queue import SimpleQueue
from typing import Any, TypeVar

T = TypeVar("T")
U = TypeVar("U")
V = TypeVar("V")
R = TypeVar("R")

_ITEM, _ERROR, _END = range(3)
_AHEAD = 2


def overlapped(
    items: Iterable[T],
    batch: int,
    prepare: Callable[[list[T]], U],
    infer: Callable[[U], Iterable[V]],
    finish: Callable[[T, V], R],
) -> Iterator[R]:
    """``finish(item, output)`` of every item, in order.

    ``items`` are taken and prepared in one thread, inferred in a second, finished in the caller's. At most a few
    batches are on the way. An error of any stage is raised as it was, after what came before it; so is one of ``items``
    in the middle of a batch. Closing the iterator ends both threads, once the item in hand is done.

    Args:
        items: used from another thread than the caller's.
        batch: items that are prepared and inferred together; the last ones may be fewer.
        prepare: of a batch.
        infer: of what ``prepare`` returned; one output for each item.
        finish: of an item and its output.
    """

    def prepared() -> Iterator[tuple[list[T], U]]:
        for group in _batches(items, batch):
            yield group, prepare(group)

    def inferred() -> Iterator[tuple[list[T], Iterable[V]]]:
        for group, ready in background(prepared()):
            yield group, infer(ready)

    for group, outputs in background(inferred()):
        for item, output in zip(group, outputs, strict=False):
            yield finish(item, output)


def background(items: Iterator[T], ahead: int = _AHEAD) -> Iterator[T]:
    """The same items, made by a thread that is at most ``ahead`` of them in front of the consumer.

    An error that ``items`` raises is raised here, after the items before it. Closing this iterator, or leaving it to be
    collected, closes ``items`` and waits for the thread.
    """
    made: SimpleQueue[tuple[int, Any]] = SimpleQueue()
    room = threading.Semaphore(ahead)
    stopped = threading.Event()

    def work() -> None:
        last: tuple[int, Any] = (_END, None)
        try:
            while room.acquire() and not stopped.is_set():
                made.put((_ITEM, next(items)))
        except StopIteration:
            pass
        except BaseException as error:  # noqa: BLE001 (it is raised by the consumer)
            last = (_ERROR, error)
        finally:
            close = getattr(items, "close", None)
            if close is not None:
                close()
            made.put(last)

    # A daemon: an iterator that is left unfinished does not keep the interpreter from ending.
    thread = threading.Thread(target=work, name="sonodistill-pipeline", daemon=True)
    thread.start()
    try:
        while True:
            what, value = made.get()
            if what == _ERROR:
                raise value
            if what == _END:
                return
            room.release()
            yield value
            del value
    finally:
        stopped.set()
        room.release()
        thread.join()


def _batches(items: Iterable[T], size: int) -> Iterator[list[T]]:
    batch: list[T] = []
    iterator = iter(items)
    failure: Exception | None = None
    while failure is None:
        try:
            batch.append(next(iterator))
        except StopIteration:
            break
        except Exception as error:  # noqa: BLE001 (it is raised below, after the items before it)
            failure = error
        if len(batch) == size and failure is None:
            yield batch
            batch = []
    if batch:
        yield batch
    if failure is not None:
        raise failure

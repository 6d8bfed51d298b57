"""A process that counts batches until it is asked to stop, used by tests that send it signals."""

from __future__ import annotations

import itertools
import os
import signal
import sys
import time

from sonodistill_training.progress import ignore_stop_signals, stop_requests, stopped


class Numbers:
    """More samples than are read, each slow enough for a signal to fall into a batch."""

    def __len__(self):
        return 100_000

    def __getitem__(self, index):
        time.sleep(0.01)
        return index


def batches(workers):
    """Numbers, from this process or from workers that are started as those of a streamed corpus are."""
    if not workers:
        return (Numbers()[index] for index in itertools.count())
    from torch.utils.data import DataLoader

    return DataLoader(
        Numbers(),
        batch_size=2,
        num_workers=workers,
        multiprocessing_context="spawn",
        worker_init_fn=ignore_stop_signals,
    )


def tell(word):
    sys.stdout.write(word + "\n")
    sys.stdout.flush()


def save(seconds):
    """A save that takes so long."""
    tell("saving")
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        time.sleep(0.01)
    tell("saved")


def count(workers, seconds):
    with stop_requests() as stop:
        for number, _ in enumerate(batches(workers)):
            if number == 3:
                tell("ready")
            # Some more batches, for the workers to be missed if the signal ended them.
            if stop.is_set() and number > 12:
                save(seconds)
                return stopped(stop.signal_number)


if __name__ == "__main__":
    end = count(int(sys.argv[1]), float(sys.argv[2]))
    handlers = [signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGUSR1)]
    tell("restored" if handlers == [signal.SIG_DFL, signal.SIG_DFL] else "not restored")
    os._exit(130 if isinstance(end, KeyboardInterrupt) else end.code)

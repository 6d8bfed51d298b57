"""Nothing is sent anywhere: libraries that report their use are imported without what reports it."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def no_telemetry() -> Iterator[None]:
    """Import OpenVINO and NNCF inside it: outside it the import itself sends usage data to their makers.

    Both do without the package that sends where it is not installed, and are told so.
    """
    name = "openvino_telemetry"
    before = sys.modules.get(name)
    sys.modules[name] = None  # type: ignore[assignment]  # what makes Python say that there is no such module
    try:
        yield
    finally:
        del sys.modules[name]
        if before is not None:
            sys.modules[name] = before

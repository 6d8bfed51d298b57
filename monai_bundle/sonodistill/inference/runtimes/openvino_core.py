"""OpenVINO without its telemetry, and its one Core in a process."""

from __future__ import annotations

from functools import cache

from sonodistill.telemetry import no_telemetry

with no_telemetry():
    import openvino

__all__ = ["core", "openvino"]


@cache
def core() -> openvino.Core:
    """The Core that everything in this process compiles and reads models with.

    It is never given back. On processors with AMX the CPU plugin of each Core moves the signal stack of the thread that
    first compiles, and puts back what it found there when the Core goes. Two Cores that do not end in the order of a
    stack leave a thread with a stack that is gone: the next signal that Python handles ends the process.
    """
    return openvino.Core()

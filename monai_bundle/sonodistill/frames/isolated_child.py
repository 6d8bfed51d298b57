"""The process that decodes for ``isolated``: it limits itself, then turns DICOM files into gray frames on a pipe.

Requests are lines of JSON on its standard input, ``{"number": N, "path": HEX, "only": [...], "seconds": S}``. Each of
the replies on its standard output starts with ``HEAD``: kind, number of the request, index of the frame, bytes that
follow. A ``FRAME`` brings its (H, W) uint8 values; ``READY``, ``END`` and ``ERROR`` bring JSON of at most ``MAX_TEXT``
bytes.
"""

from __future__ import annotations

import contextlib
import ctypes
import json
import os
import signal
import struct
import sys
from pathlib import Path
from typing import Any

HEAD = struct.Struct("<4sIIQ")
READY, FRAME, END, ERROR = b"RDY:", b"FRM:", b"END:", b"ERR:"
MAX_TEXT = 8192
_OPEN_FILES = 64
_PR_SET_PDEATHSIG, _PR_SET_NO_NEW_PRIVS = 1, 38


def main(memory_mb: int, parent: int) -> None:
    """Serve until standard input ends.

    Args:
        memory_mb: address space that it may take, in MiB.
        parent: process it must not outlive.
    """
    replies = os.dup(1)
    null = os.open(os.devnull, os.O_RDWR)
    # Native libraries print what they like; it must not get among the replies.
    os.dup2(null, 1)
    # Whoever stops the parent, be it a terminal or a service manager, lets it finish: it decides when this one ends.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    limit(memory_mb, parent)
    from sonodistill.frames.dicom import read_dicom

    _reply(replies, READY, 0, 0, _text())
    for line in sys.stdin.buffer:
        request = json.loads(line)
        number = request["number"]
        _limit_cpu(request["seconds"])
        kind, text = END, _text()
        try:
            for frame in read_dicom(Path(os.fsdecode(bytes.fromhex(request["path"]))), only=request["only"]):
                _reply(replies, FRAME, number, frame.index, frame.image.data.cast("B"))
        except BrokenPipeError:
            return
        # Native decoders raise what they like, pyo3's PanicException among it, which derives from BaseException.
        except BaseException as error:  # noqa: BLE001
            kind, text = ERROR, _text(error)
        else:
            text = _text()
        _reply(replies, kind, number, 0, text)


def limit(memory_mb: int, parent: int) -> None:
    """Give up, for good, what decoding does not need: memory, files to write, core dumps, privileges.

    Elsewhere than on Linux a limit that the system does not know is left out. End with ``parent``.
    """
    try:
        import resource
    except ImportError:
        return
    size = memory_mb << 20
    limits = {"RLIMIT_CORE": 0, "RLIMIT_FSIZE": 0, "RLIMIT_NOFILE": _OPEN_FILES, "RLIMIT_AS": size}
    linux = sys.platform == "linux"
    for name, value in limits.items():
        with contextlib.ExitStack() as tolerated:
            if not linux:
                tolerated.enter_context(contextlib.suppress(AttributeError, ValueError, OSError))
            resource.setrlimit(getattr(resource, name), (value, value))
    if linux:
        libc = ctypes.CDLL(None, use_errno=True)
        for option, value in ((_PR_SET_NO_NEW_PRIVS, 1), (_PR_SET_PDEATHSIG, signal.SIGKILL)):
            if libc.prctl(option, ctypes.c_ulong(value), *[ctypes.c_ulong(0)] * 3) != 0:
                raise OSError(ctypes.get_errno(), "prctl")
    if os.getppid() != parent:
        sys.exit(1)


def _limit_cpu(seconds: float) -> None:
    """From now on; the system ends the process that exceeds it (SIGXCPU)."""
    with contextlib.suppress(ImportError, ValueError, OSError):
        import resource

        used = resource.getrusage(resource.RUSAGE_SELF)
        soft = int(used.ru_utime + used.ru_stime + seconds) + 1
        resource.setrlimit(resource.RLIMIT_CPU, (soft, resource.getrlimit(resource.RLIMIT_CPU)[1]))


def _text(error: BaseException | None = None) -> bytes:
    from sonodistill.errors import SonoDistillError, UnsupportedFormatError

    values: dict[str, Any] = {"peak_mb": _peak_mb()}
    if isinstance(error, SonoDistillError):
        values |= {"unsupported": isinstance(error, UnsupportedFormatError), "message": error.message[:500]}
        values |= {"remedy": error.remedy[:200] if error.remedy else None}
    elif error is not None:
        values |= {"unsupported": False, "message": f"it cannot be decoded ({type(error).__name__})", "remedy": None}
    return json.dumps(values).encode()[:MAX_TEXT]


def _peak_mb() -> float:
    """Most resident memory so far, in MiB. getrusage would count that of the parent before this program started."""
    with contextlib.suppress(OSError, StopIteration, ValueError), Path("/proc/self/status").open() as status:
        return int(next(line for line in status if line.startswith("VmHWM")).split()[1]) / 1024
    return 0.0


def _reply(file: int, kind: bytes, number: int, index: int, data: bytes | memoryview) -> None:
    head, body = memoryview(HEAD.pack(kind, number, index, len(data))), memoryview(data)
    while head or body:
        written = os.writev(file, [head, body])
        head, body = head[written:], body[max(0, written - len(head)) :]

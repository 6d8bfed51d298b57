"""The child process that decodes: it reads files nobody vouches for, so it may die at any time and nothing is lost.

It speaks over its standard streams: a request is a line of JSON, an answer is a line of JSON followed by as many raw
bytes as the line says. Nothing is unpickled on either side: a decoder that was taken over could not reach its parent.
"""

from __future__ import annotations

import importlib
import json
import os
import sys
import tempfile
import threading
from collections.abc import Callable, Iterator
from queue import SimpleQueue
from typing import Any, BinaryIO

Answer = tuple[dict[str, Any], bytes]
"""What a task yields: a JSON object, and raw bytes that go with it."""


def limit_this_process(memory_bytes: int) -> None:
    """Bound memory and files, where the system knows such limits; no core dumps, which would hold images."""
    try:
        import resource
    except ImportError:  # Windows
        return
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    _, hard = resource.getrlimit(resource.RLIMIT_AS)
    if hard == resource.RLIM_INFINITY or memory_bytes < hard:
        resource.setrlimit(resource.RLIMIT_AS, (memory_bytes, memory_bytes))
    resource.setrlimit(resource.RLIMIT_NOFILE, (256, 256))
    tempfile.gettempdir()  # libraries ask for it, and it is found by writing
    resource.setrlimit(resource.RLIMIT_FSIZE, (0, 0))


def write_answer(stream: BinaryIO, header: dict[str, Any], payload: bytes = b"") -> None:
    """One answer; flushed, as the parent takes silence for a hang."""
    stream.write(json.dumps({**header, "payload_bytes": len(payload)}).encode() + b"\n")
    stream.write(payload)
    stream.flush()


def main() -> None:
    """Serve requests until standard input ends."""
    # Native libraries print to descriptor 1 what they like; the answers get a descriptor of their own.
    answers = os.fdopen(os.dup(1), "wb", buffering=1 << 20)
    silence = os.open(os.devnull, os.O_WRONLY)
    os.dup2(silence, 1)
    os.dup2(silence, 2)  # messages of decoders can quote the file
    requests: SimpleQueue[bytes] = SimpleQueue()
    threading.Thread(target=_listen, args=(requests,), daemon=True).start()
    setup = json.loads(requests.get())
    task: Callable[..., Iterator[Answer]] = getattr(importlib.import_module(setup["module"]), setup["function"])
    limit_this_process(setup["memory_bytes"])
    write_answer(answers, {"kind": "ready"})
    while True:
        arguments = json.loads(requests.get())
        try:
            for header, payload in task(**arguments):
                write_answer(answers, header, payload)
        except (KeyboardInterrupt, SystemExit):
            raise
        # Decoders raise what they like, and pyo3's PanicException is no Exception.
        except BaseException as error:  # noqa: BLE001
            write_answer(answers, {"kind": "failed", "error": type(error).__name__})
        else:
            write_answer(answers, {"kind": "done"})


def _listen(requests: SimpleQueue[bytes]) -> None:
    """Pass requests on; when the parent is gone, so is the child, even in the middle of a file."""
    for line in sys.stdin.buffer:
        requests.put(line)
    os._exit(0)


if __name__ == "__main__":
    main()

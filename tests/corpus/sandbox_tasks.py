"""What a decoder might do, as tasks for the sandbox."""

from __future__ import annotations

import os
import time


def work(mode: str, count: int = 3):
    for index in range(count):
        yield {"kind": "item", "index": index}, bytes([index]) * 1000 * index
    if mode == "abort":
        os.abort()
    elif mode == "exit":
        os._exit(3)
    elif mode == "hang":
        time.sleep(600)
    elif mode == "greedy":
        bytearray(64 << 30)
    elif mode == "print":
        os.write(1, b"chatter of a native library\n")
        print("more of it")  # noqa: T201
        yield {"kind": "item", "index": count}, b""
    elif mode == "write":
        with open("/tmp/a_child_writes_nothing", "wb") as file:  # noqa: PTH123
            file.write(b"x")
    elif mode == "raise":
        raise BaseException("John_Doe.dcm")

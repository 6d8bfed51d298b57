"""The process that runs a model on this machine: asked over its standard input, answering on its standard output.

Started as a script by ``local.py`` with the same Python; of this extension it imports nothing. A message is a length
(four bytes, the highest first), a header of JSON of that length, and as many raw bytes as its ``bytes`` says. It ends
when its input does.

    {"op": "open", "path": ..., "threads": 2}                      -> {"ok": true, "kind": ..., "labels": [...]}
    {"op": "segment", "path": ..., "shape": [H, W], "bytes": H*W}  -> {"ok": true, "confidence": ..., "bytes": H*W}

The answer to the latter has ``unfamiliarity`` as well where the model says how far the frame is from those that it was
made for. A request to segment may have ``parts`` (what was clicked on) or ``follow``: then a mask (H, W) comes after
the image.
"""

from __future__ import annotations

import json
import math
import os
import struct
import sys
from pathlib import Path
from typing import IO, Any

MOST_HEADER, MOST_BYTES = 1 << 20, 1 << 28
_LENGTH = struct.Struct(">I")


class ProtocolError(Exception):
    """What came is no message."""


def write_message(stream: IO[bytes], header: dict[str, Any], payload: bytes = b"") -> None:
    """A message, flushed."""
    text = json.dumps({**header, "bytes": len(payload)}).encode()
    stream.write(_LENGTH.pack(len(text)) + text + payload)
    stream.flush()


def read_message(stream: IO[bytes]) -> tuple[dict[str, Any], bytes] | None:
    """(header, payload), None at the end of the stream. Errors: ProtocolError."""
    start = stream.read(_LENGTH.size)
    if not start:
        return None
    if len(start) < _LENGTH.size:
        raise ProtocolError("it ends within a message")
    (length,) = _LENGTH.unpack(start)
    if length > MOST_HEADER:
        raise ProtocolError(f"a header of {length} bytes")
    try:
        header = json.loads(_exactly(stream, length))
        size = header["bytes"]
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise ProtocolError(f"a header that cannot be read ({type(error).__name__})") from None
    if not isinstance(header, dict) or type(size) is not int or not 0 <= size <= MOST_BYTES:
        raise ProtocolError("a message of no or too large a size")
    return header, _exactly(stream, size)


def _exactly(stream: IO[bytes], size: int) -> bytes:
    parts = []
    while size:
        part = stream.read(size)
        if not part:
            raise ProtocolError("it ends within a message")
        parts.append(part)
        size -= len(part)
    return b"".join(parts)


class Worker:
    """Models by path, and the last prediction, which further clicks on a frame ask for again."""

    def __init__(self) -> None:
        self._models: dict[str, Any] = {}
        self._threads = 0
        self._last: tuple[tuple[str, bytes], tuple[Any, Any, str, float | None]] | None = None

    def answer(self, header: dict[str, Any], payload: bytes) -> tuple[dict[str, Any], bytes]:
        if header.get("op") == "open":
            self._threads = int(header.get("threads", 0))
            model = self._model(str(header["path"]))
            return {"ok": True, "kind": model.kind, "labels": list(model.labels)}, b""
        if header.get("op") == "segment":
            return self._segment(header, payload)
        raise ProtocolError("there is no such request")

    def _model(self, path: str) -> Any:
        if path not in self._models:
            from sonodistill.inference.predictor import Predictor

            self._models[path] = Predictor(path, threads=self._threads)
        return self._models[path]

    def _segment(self, header: dict[str, Any], payload: bytes) -> tuple[dict[str, Any], bytes]:
        import numpy as np

        height, width = (int(side) for side in header["shape"])
        count = height * width
        if len(payload) not in (count, 2 * count) or not count:
            raise ProtocolError("a frame of another size than is said")
        image = np.frombuffer(payload, np.uint8, count).reshape(height, width)
        mask, sure, prediction, unfamiliarity = self._predicted(str(header["path"]), image)
        if header.get("follow"):
            mask = follow(mask, np.frombuffer(payload, np.uint8, count, count).reshape(height, width))
        elif header.get("parts") is not None:
            mask = chosen(mask, header["parts"])
        found = mask > 0
        confidence = float(sure[found].mean() if found.any() else 1 - sure.max())
        said = {"ok": True, "confidence": min(1.0, max(0.0, confidence)), "prediction": prediction}
        if unfamiliarity is not None:
            said["unfamiliarity"] = unfamiliarity
        return said, np.ascontiguousarray(mask, np.uint8).tobytes()

    def _predicted(self, path: str, image: Any) -> tuple[Any, Any, str, float | None]:
        """Label numbers (H, W) uint8, the probability of the most probable label (H, W), the class, "" for none, and
        how unfamiliar the frame is, None of a model that does not say it."""
        key = path, image.tobytes()
        if self._last is not None and self._last[0] == key:
            return self._last[1]
        import numpy as np

        from sonodistill.frames import Calibration, Frame, Provenance

        model = self._model(path)
        frame = Frame(image, 0, None, Calibration(None), Provenance(Path("frame"), "live"))
        found = model.predict_one(frame)
        score = getattr(found, "unfamiliarity", float("nan"))  # older releases of the package have none
        strange = float(score) if math.isfinite(score) else None
        if model.kind == "segmenter":
            best = found.probabilities.max(0)
            numbers = np.asarray(range(1, len(found.labels) + 1), np.uint8)
            mask = np.where(found.masks.any(0), numbers[found.probabilities.argmax(0)], 0).astype(np.uint8)
            self._last = key, (mask, best, "", strange)
        elif model.kind == "classifier":
            empty = np.zeros(image.shape, np.uint8)
            self._last = key, (empty, np.full(image.shape, 1 - found.probabilities.max()), found.label, strange)
        else:
            raise ValueError("an encoder segments nothing: choose a segmenter")
        return self._last[1]


def chosen(mask: Any, said: dict[str, Any]) -> Any:
    """Of a mask, 1 in the connected parts that hold a point or reach into the box, but not those of negative points."""
    import cv2
    import numpy as np

    count, parts = cv2.connectedComponents((mask > 0).astype(np.uint8))
    height, width = mask.shape
    wanted, refused = np.zeros(count, bool), np.zeros(count, bool)
    for points, kept in ((said.get("positive", []), wanted), (said.get("negative", []), refused)):
        for x, y in points:
            column, row = round(x), round(y)
            if 0 <= column < width and 0 <= row < height:
                kept[parts[row, column]] = True
    box, inside = said.get("box"), np.ones(mask.shape, bool)
    if box is not None:
        x0, y0, x1, y1 = (round(value) for value in box)
        inside[:] = False
        inside[max(0, y0) : max(0, y1 + 1), max(0, x0) : max(0, x1 + 1)] = True
        if not said.get("positive"):
            wanted[np.unique(parts[inside])] = True
    elif not said.get("positive"):
        wanted[:] = True
    wanted[0] = False
    return ((wanted & ~refused)[parts] & inside).astype(np.uint8)


def follow(mask: Any, before: Any) -> Any:
    """The parts of a mask that overlap the labels of the frame before, each under the label it overlaps most."""
    import cv2
    import numpy as np

    count, parts = cv2.connectedComponents((mask > 0).astype(np.uint8))
    overlaps = np.zeros((count, 256), np.int64)
    np.add.at(overlaps, (parts.ravel(), before.ravel()), 1)
    overlaps[:, 0] = 0
    numbers = overlaps.argmax(1).astype(np.uint8)
    numbers[0] = 0
    return numbers[parts]


def _failure(error: BaseException) -> dict[str, Any]:
    missing = isinstance(error, ImportError)
    name = getattr(error, "name", None) or "" if missing else ""
    kind = "missing" if missing and name.partition(".")[0] in ("sonodistill", "onnxruntime", "cv2") else "failed"
    kind = "missing" if type(error).__name__ == "RuntimeMissingError" else kind
    return {"ok": False, "kind": kind, "error": type(error).__name__, "detail": str(error)[:1000], "module": name}


def main() -> None:
    """Answer until the input ends."""
    # The folder of a script comes first; its modules are not to be taken for others of their names.
    here = Path(__file__).resolve().parent
    sys.path[:] = [path for path in sys.path if Path(path).resolve() != here]
    # What libraries print must not come between the answers.
    answers = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)
    questions, worker = sys.stdin.buffer, Worker()
    while (message := read_message(questions)) is not None:
        try:
            header, payload = worker.answer(*message)
        except Exception as error:  # noqa: BLE001 - told to whoever asked
            header, payload = _failure(error), b""
        write_message(answers, header, payload)


if __name__ == "__main__":
    main()

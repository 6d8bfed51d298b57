"""Exported models on this machine, in a process of their own: Slicer stays responsive, and a cancel ends it at once."""

from __future__ import annotations

import logging
import os
import shutil
import subprocess
import sys
import threading
from collections import deque
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from UltrasoundSegmentLib.backends import carry
from UltrasoundSegmentLib.backends.model import (
    CLASSIFICATION,
    INTERACTIVE,
    SEGMENTATION,
    BackendError,
    Cancel,
    Model,
    NotOfferedError,
    Prompts,
    Result,
)
from UltrasoundSegmentLib.backends.prompt_points import points_of
from UltrasoundSegmentLib.backends.scores import unfamiliarity_of
from UltrasoundSegmentLib.backends.worker import ProtocolError, read_message, write_message
from UltrasoundSegmentLib.errors import SegmentError

if TYPE_CHECKING:
    from UltrasoundSegmentLib.frames.frame import Frame

logger = logging.getLogger(__name__)

SUFFIXES = (".onnx", ".xml")
"""ONNX, and OpenVINO with its ``.bin`` beside it."""
PARTS = "parts of "
"""What the id of a model for prompts begins with; the file's name follows."""
_KINDS = {"segmenter": SEGMENTATION, "classifier": CLASSIFICATION}
_SECONDS = 300.0


class NotInstalledError(SegmentError):
    """The runtime is not in Slicer's Python. ``requirement``: what ``pip`` has to be told."""

    def __init__(self, message: str, requirement: str) -> None:
        super().__init__(message)
        self.requirement = requirement


class LocalBackend:
    """Backend of model files: ONNX by ONNX Runtime, OpenVINO's own, through the package ``sonodistill``; no torch.

    A click model needs torch, and none runs here. What is offered for prompts is named "parts of <file>": it chooses
    among what the segmentation model finds, the connected parts that were clicked on, without those of negative
    clicks, cut to the box, and draws nothing that the model does not. A mask is carried on by segmenting each frame
    and keeping the parts that overlap the mask of the frame before.

    Args:
        paths: of models, ``.onnx`` or ``.xml``, or one of them; each has its file's name as id.
        threads: of the inference, 0 for half of the processors, four at most.
        python: command line of a Python that has the package; by default ``PythonSlicer``, or the one that runs.

    The process starts with the first request, and ends with ``close`` or with this one.
    """

    name = "This computer"

    def __init__(
        self,
        paths: str | Path | Sequence[str | Path],
        *,
        threads: int = 0,
        python: Sequence[str] | None = None,
    ) -> None:
        paths = [paths] if isinstance(paths, str | Path) else paths
        self._paths = {Path(path).name: Path(path) for path in paths}
        self._threads = threads or max(1, min(4, (os.cpu_count() or 2) // 2))
        self._python = list(python) if python is not None else default_python()
        self._process: subprocess.Popen[bytes] | None = None
        self._closed = False
        self._words: deque[bytes] = deque(maxlen=50)
        self._offered: dict[str, Model] = {}

    def models(self, cancel: Cancel) -> list[Model]:
        """Each file that can be opened; Errors: that of the first, where none can."""
        failed: SegmentError | None = None
        for id in self._paths:
            if id not in self._offered:
                try:
                    self._open(id, cancel)
                except NotInstalledError:
                    raise
                except BackendError as error:
                    cancel.check()
                    logger.warning("%s: %s", id, error)
                    failed = failed or error
        if failed is not None and not self._offered:
            raise failed
        parts = [Model(f"{PARTS}{one.id}", INTERACTIVE) for one in self._offered.values() if one.kind == SEGMENTATION]
        return [*self._offered.values(), *parts]

    def segment(self, frame: Frame, model: str, cancel: Cancel) -> Result:
        return self._segment(frame, model, cancel)

    def refine(
        self, frame: Frame, prompts: Prompts, previous: NDArray[np.uint8] | None, model: str, cancel: Cancel
    ) -> Result:
        if prompts.empty:
            raise BackendError("There is nothing drawn yet: click into the structure, or draw a box around it.")
        positive, negative = points_of(prompts, frame.image.shape[:2])
        parts = {"positive": positive, "negative": negative, "box": list(prompts.box) if prompts.box else None}
        found = self._segment(frame, self._segmenter(model, cancel), cancel, parts=parts)
        if not found.mask.any():
            raise BackendError(
                "The model finds nothing where you clicked. Without a server, prompts choose among the parts that "
                "the model segments: draw by hand, or use a server with a click model."
            )
        mask = carry.with_label(previous, found.mask > 0, prompts.label)
        info = {**found.info, "how": "parts of the segmentation"}
        return Result(mask, found.confidence, found.model, info, found.unfamiliarity)

    def propagate(
        self,
        frames: Sequence[Frame],
        mask: NDArray[np.uint8],
        model: str,
        cancel: Cancel,
        on_result: Callable[[int, Result], None],
    ) -> str:
        chosen = self._segmenter(model, cancel)

        def propose(frame: Frame, before: NDArray[np.uint8], cancel: Cancel) -> Result:
            return self._segment(frame, chosen, cancel, before=before)

        return carry.carry(frames, mask, propose, cancel, on_result)

    def close(self) -> None:
        self._closed = True
        self._kill()

    def _segmenter(self, model: str, cancel: Cancel) -> str:
        """The model of which parts are asked for; the first where none is named."""
        model = model.removeprefix(PARTS)
        if model in self._paths:
            return model
        known = [one.id for one in self.models(cancel) if one.kind == SEGMENTATION]
        if not known:
            raise NotOfferedError("There is no segmentation model on this computer: choose a file, or a server.")
        return known[0]

    def _open(self, id: str, cancel: Cancel) -> None:
        path = self._paths[id]
        if path.suffix.lower() not in SUFFIXES:
            raise BackendError(f"{path.name} is no exported model: choose {' or '.join(SUFFIXES)}.")
        if not path.is_file():
            raise BackendError(f"There is no file {path}: choose the model again.")
        header, _ = self._ask({"op": "open", "path": str(path), "threads": self._threads}, b"", cancel)
        kind = _KINDS.get(str(header.get("kind")))
        if kind is None:
            raise BackendError(f"{path.name} is an encoder, which segments nothing: choose a segmentation model.")
        self._offered[id] = Model(id, kind, tuple(str(one) for one in header.get("labels", ())))

    def _segment(
        self,
        frame: Frame,
        model: str,
        cancel: Cancel,
        *,
        parts: dict[str, Any] | None = None,
        before: NDArray[np.uint8] | None = None,
    ) -> Result:
        if model not in self._paths:
            raise BackendError(f"There is no model {model} on this computer: choose one of the list.")
        if model not in self._offered:
            self._open(model, cancel)
        image = np.ascontiguousarray(frame.image, np.uint8)
        asked: dict[str, Any] = {
            "op": "segment",
            "path": str(self._paths[model]),
            "shape": list(image.shape),
            "parts": parts,
        }
        payload = image.tobytes()
        if before is not None:
            asked["follow"], payload = True, payload + np.ascontiguousarray(before, np.uint8).tobytes()
        header, content = self._ask(asked, payload, cancel)
        if len(content) != image.size:
            raise BackendError("The answer has another size than the frame: update sonodistill.")
        mask = np.frombuffer(content, np.uint8).reshape(image.shape).copy()
        prediction = str(header.get("prediction") or "")
        info = {"prediction": prediction} if prediction else {}
        return Result(mask, header.get("confidence"), model, info, unfamiliarity_of(header))

    def _ask(self, header: dict[str, Any], payload: bytes, cancel: Cancel) -> tuple[dict[str, Any], bytes]:
        """Errors: Cancelled, after which the process is gone; NotInstalledError; BackendError."""
        cancel.check()
        if self._closed:
            raise BackendError("The models on this computer were closed: connect again.")
        process = self._started()
        late = threading.Timer(_SECONDS, self._kill)
        late.daemon = True
        cancel.connect(self._kill)
        late.start()
        message = None
        try:
            if process.stdin is not None and process.stdout is not None:
                write_message(process.stdin, header, payload)
                message = read_message(process.stdout)
        except (OSError, ValueError, ProtocolError) as error:
            logger.debug("The process for models: %s", error)
        finally:
            late.cancel()
            cancel.disconnect(self._kill)
        cancel.check()
        if message is None:
            self._kill()
            raise BackendError(f"The process that runs the model ended ({self._last_words()}): try again.")
        answer, content = message
        if not answer.get("ok"):
            raise _refused(answer, Path(str(header["path"])))
        return answer, content

    def _started(self) -> subprocess.Popen[bytes]:
        if self._process is None or self._process.poll() is not None:
            self._words.clear()
            hidden = {"creationflags": 0x08000000} if sys.platform == "win32" else {}  # CREATE_NO_WINDOW
            script = str(Path(__file__).with_name("worker.py"))
            try:
                self._process = subprocess.Popen(
                    [*self._python, script],
                    stdin=subprocess.PIPE,
                    stdout=subprocess.PIPE,
                    stderr=subprocess.PIPE,
                    **hidden,  # type: ignore[call-overload]
                )
            except OSError as error:
                raise BackendError(f"The process for models cannot be started ({error}).") from None
            threading.Thread(target=self._listen, args=(self._process,), daemon=True).start()
        return self._process

    def _listen(self, process: subprocess.Popen[bytes]) -> None:
        if process.stderr is not None:
            for line in process.stderr:
                self._words.append(line[:500])
        process.wait()

    def _last_words(self) -> str:
        words = [line.decode(errors="replace").strip() for line in list(self._words)]
        return next((line[:200] for line in reversed(words) if line), "without a word")

    def _kill(self) -> None:
        process, self._process = self._process, None
        if process is not None and process.poll() is None:
            process.kill()


def _refused(answer: dict[str, Any], path: Path) -> SegmentError:
    detail = str(answer.get("detail", ""))[:300].rstrip(".")
    if answer.get("kind") != "missing":
        return BackendError(f"The model could not be run: {detail}.")
    module = str(answer.get("module", "")).partition(".")[0]
    runtime = "openvino" if path.suffix.lower() == ".xml" else "onnxruntime"
    requirement = {"": runtime, "cv2": "opencv-python-headless"}.get(module, module)
    return NotInstalledError(
        f"Models on this computer need a package that Slicer's Python has not: {detail}. "
        f'Install it: slicer.util.pip_install("{requirement}"), or use a server.',
        requirement,
    )


def model_file(text: str = "") -> Path | None:
    """The file that a user means: a path, or the name of a model that comes with ``sonodistill``, in its exported form.

    Without either it is the shipped one that segments. None where there is no such file, or no such package.
    """
    path = Path(text)
    if text and path.is_file():
        return path
    try:
        from sonodistill import models
        from sonodistill.errors import SonoDistillError
    except ImportError:
        return None
    try:
        found = models.path_of(text, torch=False) if text else models.default(models.SEGMENTATION, torch=False)
    except SonoDistillError as error:
        logger.info("%s: %s", text, error)
        return None
    return found if found is not None and found.is_file() else None


def default_python() -> list[str]:
    """``PythonSlicer``, the Python of an installed Slicer with its libraries, or the interpreter that runs."""
    return [shutil.which("PythonSlicer") or sys.executable]

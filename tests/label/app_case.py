"""The app in a process of its own, with a few studies and models that need no training, for the tests of the whole.

with serve(make_studies(folder), make_models(folder)) as server:
    assert server.get("/info/")["labels"]
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import requests
import SimpleITK as sitk
import torch
from PIL import Image
from pydicom import examples

from sonodistill.frames import read
from sonodistill.networks.classifier import Classifier
from sonodistill.networks.encoder import Encoder
from sonodistill.networks.unet import Segmenter
from sonodistill.transforms.geometry import to_input
from sonodistill.weights import save_weights
from sonodistill.weights_header import WeightsInfo

APP = Path(__file__).resolve().parents[2] / "monailabel_app"
ENCODER = "test_resnet"
SIZE = (64, 64)
CLASSES = ("normal", "benign", "malignant")
START_SECONDS = 300
_KINDS = {
    "segmentation": "segmenter",
    "classification": "classifier",
    "interactive": "interactive",
    "embedding": "encoder",
}


def make_studies(folder: Path) -> Path:
    """A colour cine and two colour stills of DICOM, a gray still of PNG, and a small 3-D volume, in two folders."""
    studies = folder / "studies"
    (studies / "a").mkdir(parents=True)
    (studies / "b").mkdir()
    shutil.copy(examples.get_path("ybr_color"), studies / "a" / "cine.dcm")  # 30 frames of 240 x 320
    shutil.copy(examples.get_path("palette_color"), studies / "a" / "palette.dcm")
    shutil.copy(examples.get_path("rgb_color"), studies / "b" / "still.dcm")
    frame = next(read(studies / "a" / "cine.dcm", only=[3])).image
    Image.fromarray(frame[20:220, 40:280]).save(studies / "b" / "gray.png")
    volume = np.stack([frame[40:104, 60:140] + step for step in np.arange(5, dtype=np.uint8)])
    image = sitk.GetImageFromArray(volume)  # 5 slices of 64 x 80
    image.SetSpacing((0.5, 0.5, 1.0))
    sitk.WriteImage(image, studies / "b" / "volume.nii.gz")
    return studies


def make_models(folder: Path, names: Sequence[str] = tuple(_KINDS), seed: int = 1) -> dict[str, Path]:
    """Seeded weights of a tiny encoder for each model: they label parts of every image, and mean nothing."""
    folder.mkdir(parents=True, exist_ok=True)
    return {name: make_model(folder / f"{name}.safetensors", name, seed=seed) for name in names}


def make_model(path: Path, name: str = "segmentation", labels: Sequence[str] = ("lesion",), seed: int = 1) -> Path:
    torch.manual_seed(seed)
    network: torch.nn.Module
    if name == "segmentation":
        network = _spread(Segmenter(ENCODER, classes=len(labels), weights=None))
    elif name == "classification":
        network, labels = Classifier(ENCODER, classes=len(CLASSES), weights=None), CLASSES
    elif name == "interactive":
        from sonodistill.networks.click import ClickSegmenter

        network, labels = ClickSegmenter(ENCODER, weights=None), ()
    else:
        network, labels = Encoder(ENCODER), ()
    info = WeightsInfo(_KINDS[name], ENCODER, input_size=SIZE, labels=tuple(labels))
    save_weights(path, network.state_dict(), info)
    return path


def _spread(network: Segmenter) -> Segmenter:
    """Scale the head so that on a real image each logit has mean 0 and deviation 4: masks with real regions."""
    frame = next(read(examples.get_path("ybr_color"), only=[0]))
    image = torch.from_numpy(np.asarray(to_input(frame.image, SIZE), np.float32)).reshape(1, 1, *SIZE)
    head = network.segmentation_head[0]
    with torch.no_grad():
        logits = network.eval()(image)
        mean, scale = logits.mean((0, 2, 3)), 4 / logits.std((0, 2, 3))
        head.bias.copy_((head.bias - mean) * scale)
        head.weight.mul_(scale.view(-1, 1, 1, 1))
    return network


@dataclass
class Server:
    """An app that answers.

    Attributes:
        url: without a slash at its end.
        process: leader of a process group of its own.
        studies, work: its folders.
        log: its output.
        start_seconds: from the start of the process to the first answer.
        headers: sent with every request.
    """

    url: str
    process: subprocess.Popen[bytes]
    studies: Path
    work: Path
    log: Path
    start_seconds: float = 0.0
    headers: dict[str, str] = field(default_factory=dict)

    def request(self, method: str, path: str, **more: Any) -> requests.Response:
        """One HTTP request, whatever it answers."""
        more["headers"] = {**self.headers, **more.get("headers", {})}
        return requests.request(method, self.url + path, timeout=more.pop("timeout", 60), **more)

    def ask(self, method: str, path: str, **more: Any) -> requests.Response:
        """One HTTP request; the test fails with the server's output unless it answers with 2xx."""
        response = self.request(method, path, **more)
        if not response.ok:
            pytest.fail(f"{method} {path}: {response.status_code} {response.text[:2000]}\n{self.tail()}")
        return response

    def get(self, path: str, **query: Any) -> Any:
        """The JSON answer of a GET."""
        return self.ask("GET", path, params=query).json()

    def item(self, part: str) -> str:
        """The id of the item whose id holds this text: "cine", "palette", "still", "gray" or "volume"."""
        return next(id for id in self.get("/datastore/", output="all")["objects"] if part in id)

    def infer(self, model: str, image: str, params: Mapping[str, Any] | None = None, **files: Any) -> requests.Response:
        """POST /infer as every client does it: a multipart form with ``params`` as JSON. Whatever it answers."""
        form: dict[str, Any] = {"params": (None, json.dumps(dict(params or {})))}
        return self.request("POST", f"/infer/{model}", params={"image": image}, files={**form, **files})

    def tail(self, characters: int = 8000) -> str:
        return self.log.read_text(errors="replace")[-characters:]

    def wait(self, condition: Callable[[], bool], seconds: float = 60) -> None:
        """Until it holds; the test fails with the server's output when it does not."""
        until = time.monotonic() + seconds
        while not condition():
            if self.process.poll() is not None or time.monotonic() > until:
                pytest.fail(f"not so after {seconds} s (exit code {self.process.poll()})\n{self.tail()}")
            time.sleep(0.1)

    def kill(self) -> None:
        """As a crash does: SIGKILL to it and its children."""
        os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait(30)


def free_port() -> int:
    with socket.socket() as opened:
        opened.bind(("127.0.0.1", 0))
        return int(opened.getsockname()[1])


def copy_app(folder: Path) -> Path:
    """The app as it would be installed elsewhere; what it writes beside itself stays out of the checkout."""
    return shutil.copytree(APP, folder / "app", ignore=shutil.ignore_patterns("logs", "bin", "__pycache__", "*.pyc"))


@contextmanager
def serve(
    studies: Path | str,
    models: Mapping[str, Path] | None = None,
    *,
    work: Path,
    conf: Mapping[str, str] | None = None,
    environment: Mapping[str, str] | None = None,
    command: Sequence[str] | None = None,
    prefix: Sequence[str] = (),
    ready: bool = True,
    headers: Mapping[str, str] | None = None,
) -> Iterator[Server]:
    """Run the app on a free port of the loopback interface until the end of the block.

    Args:
        studies: a folder, or the URL of a DICOMweb service.
        models: weights by model.
        work: the folder of labels and versions; kept, so that a second start sees the first one's.
        conf: further pairs of ``--conf``.
        environment: more variables.
        command: another command line than ``python -m monailabel.main start_server``; "{port}" is filled in.
        prefix: of the command line, such as ``unshare -rn``.
        ready: whether to wait for the first answer.
        headers: sent with every request, by the wait for the first answer too.
    """
    port = free_port()
    work.mkdir(parents=True, exist_ok=True)
    log = work.parent / f"server-{port}.log"
    if command is None:
        home = Path(studies).parent if not str(studies).startswith("http") else work.parent
        app = home / "app" if (home / "app" / "main.py").exists() else copy_app(home)
        pairs = {**{name: str(path) for name, path in (models or {}).items()}, "work": str(work), "threads": "1"}
        pairs.update(conf or {})
        command = [sys.executable, "-m", "monailabel.main", "start_server", "--app", str(app)]
        command += ["--studies", str(studies), "--host", "127.0.0.1", "--port", "{port}"]
        command += [text for pair in pairs.items() for text in ("--conf", *pair)]
    line = [*prefix, *(text.replace("{port}", str(port)) for text in command)]
    variables = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONUNBUFFERED": "1", **(environment or {})}
    began = time.monotonic()
    with log.open("wb") as output:
        process = subprocess.Popen(line, stdout=output, stderr=output, env=variables, start_new_session=True)
    url = f"http://127.0.0.1:{port}"
    server = Server(url, process, Path(str(studies)), work, log, headers=dict(headers or {}))
    try:
        if ready:
            server.wait(lambda: _answers(server), START_SECONDS)
            server.start_seconds = time.monotonic() - began
        yield server
    finally:
        _end(process)


def _answers(server: Server) -> bool:
    try:
        return server.request("GET", "/info/", timeout=5).status_code < 500
    except requests.RequestException:
        return False


def _end(process: subprocess.Popen[bytes]) -> None:
    if process.poll() is None:
        process.send_signal(signal.SIGTERM)
        with suppress(subprocess.TimeoutExpired):
            process.wait(20)
    with suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)  # children that are left, such as a training
    process.wait(20)

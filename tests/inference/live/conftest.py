"""A real OpenIGTLink server, a real exported model, and real frames for the tests of live sources."""

from __future__ import annotations

import signal
import threading
import time

import numpy as np
import pytest
from pydicom import examples

from sonodistill.frames import read
from sonodistill.inference.predictor import Prediction


@pytest.fixture(scope="session")
def cine():
    """30 frames of 240 x 320 pixels."""
    return list(read(examples.get_path("ybr_color")))


@pytest.fixture(scope="session")
def model(tmp_path_factory):
    """A segmenter on a ResNet-18 at 64 px as ONNX file."""
    import torch

    from sonodistill.networks.unet import Segmenter

    torch.manual_seed(1)
    path = tmp_path_factory.mktemp("onnx") / "model.onnx"
    network = Segmenter("resnet18").eval()
    torch.onnx.export(network, (torch.rand(1, 1, 64, 64),), str(path), dynamo=False)  # the quick exporter
    return path


class Threshold:
    """Takes its time and calls bright pixels foreground: a model whose speed a test can choose."""

    threshold = 0.5

    def __init__(self, seconds=0.0, labels=("bright",)):
        self.seconds, self.labels = seconds, labels

    def predict_one(self, frame):
        time.sleep(self.seconds)
        probabilities = np.stack([frame.image, 255 - frame.image])[: len(self.labels)].astype(np.float32) / 255
        return Prediction(frame, self.labels, probabilities, probabilities > self.threshold)


@pytest.fixture
def threshold():
    return Threshold


class Server:
    """pyigtl's server, which a thread of this process feeds."""

    def __init__(self, port=0):
        import pyigtl

        self.message = pyigtl.ImageMessage
        self._server = pyigtl.OpenIGTLinkServer(port=port, local_server=True)
        self.port = self._server.server_address[1]
        self.address = f"igtl://127.0.0.1:{self.port}"
        self.received = self._server.wait_for_message
        self._stop = threading.Event()
        self._thread = None

    def feed(self, messages, interval=0.0):
        """Send them once somebody is connected, each ``interval`` seconds after the one before."""

        def run():
            while not self._server.is_connected() and not self._stop.is_set():
                time.sleep(0.005)
            for message in messages:
                if self._stop.wait(interval):
                    return
                self._server.send_message(message, wait=False)

        self._thread = threading.Thread(target=run, daemon=True)
        self._thread.start()
        return self

    def stop(self):
        self._stop.set()
        if self._thread is not None:
            self._thread.join()
        self._server.stop()


@pytest.fixture
def serve():
    """Starts servers, and stops them after the test; pyigtl's takes the process's signals, which are given back."""
    pytest.importorskip("pyigtl")
    signals = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    servers = []

    def start(port=0):
        servers.append(Server(port))
        for number, handler in signals.items():
            signal.signal(number, handler)
        return servers[-1]

    yield start
    for server in servers:
        server.stop()


@pytest.fixture
def images():
    """pyigtl messages of frames: (1, H, W) as scanners send them, 40 ms apart, with pixels of 0.2 x 0.1 mm."""
    pyigtl = pytest.importorskip("pyigtl")
    matrix = np.diag([0.1, 0.2, 1.0, 1.0])

    def make(frames, device="Image", start=1000.0):
        return [
            pyigtl.ImageMessage(frame.image[None], matrix, timestamp=start + 0.04 * n, device_name=device)
            for n, frame in enumerate(frames)
        ]

    return make

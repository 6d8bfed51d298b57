"""A model that needs no training, and the service as a process of its own, for the tests of the whole."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from sonodistill.dicom.config import read_settings
from sonodistill.dicom.service.beat import signs
from sonodistill.dicom.service.jobs import Jobs
from sonodistill.dicom.service.roles import roles_of
from sonodistill.inference.exported import KEY, ExportInfo, to_text
from sonodistill.weights_header import WeightsInfo

SIZE = (64, 64)
FAULTY = Path(__file__).with_name("faulty_role.py")
START_SECONDS = 240  # four processes import what they need, on a machine that other tests keep busy
STAGES = ("accepted", "claimed", "analysed", "finished", "sent", "delivered")


def bright_model(path: Path, labels: Sequence[str] = ("bright",), *, blur: int = 9) -> Path:
    """An ONNX segmenter: what is brighter than 0.3 after a blur; each further label asks for a tenth more."""
    levels = np.array([0.3 + 0.1 * at for at in range(len(labels))], np.float32).reshape(1, -1, 1, 1)
    nodes = [
        helper.make_node(
            "AveragePool", ["image"], ["mean"], kernel_shape=[blur, blur], pads=[blur // 2] * 4, count_include_pad=1
        ),
        helper.make_node("Sub", ["mean", "level"], ["above"]),
        helper.make_node("Mul", ["above", "slope"], ["output"]),
    ]
    graph = helper.make_graph(
        nodes,
        "bright",
        [helper.make_tensor_value_info("image", TensorProto.FLOAT, ["B", 1, *SIZE])],
        [helper.make_tensor_value_info("output", TensorProto.FLOAT, ["B", len(labels), *SIZE])],
        [numpy_helper.from_array(levels, "level"), numpy_helper.from_array(np.float32(40), "slope")],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    info = ExportInfo(WeightsInfo("segmenter", "resnet18", input_size=SIZE, labels=tuple(labels)), "onnx", "fp32", SIZE)
    entry = model.metadata_props.add()
    entry.key, entry.value = KEY, to_text(info)
    onnx.checker.check_model(model)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(model.SerializeToString())
    return path


@dataclass
class Running:
    """A service that runs.

    Attributes:
        process: its supervisor.
        spool: its folder.
        log: its output.
    """

    process: subprocess.Popen[bytes]
    spool: Path
    log: Path

    def jobs(self) -> Jobs:
        return Jobs(self.spool / "jobs.sqlite")

    def counts(self) -> dict[str, int]:
        """Jobs by state, and deliveries by state with a d before it."""
        counts = self.jobs().counts()
        return {**counts.jobs, **{f"d-{state}": count for state, count in counts.deliveries.items()}}

    def files(self, part: str) -> list[Path]:
        """The DICOM files in a part of the spool; folders may vanish under it, as the service removes them."""
        walk = os.walk(self.spool / part)
        return [Path(folder, name) for folder, _, names in walk for name in names if name.endswith(".dcm")]

    def wait(self, condition: Callable[[], bool], seconds: float = 60) -> None:
        """Until it holds; the test fails with the service's output when it does not."""
        until = time.monotonic() + seconds
        while not condition():
            if time.monotonic() > until:
                pytest.fail(
                    f"not so after {seconds} s: {self.counts()}\n{self.log.read_text(errors='replace')[-6000:]}"
                )
            time.sleep(0.05)

    def stop(self) -> int:
        """As systemd does; gives the exit code."""
        self.process.send_signal(signal.SIGTERM)
        return self.process.wait(60)


def configuration(folder: Path, text: str, *, model: str = "model.onnx", route: str = "everything = true") -> Path:
    """A configuration with one route and quick retries."""
    if not (folder / model).exists():
        bright_model(folder / model)
    path = folder / "service.toml"
    path.write_text(
        f'service = {{spool = "spool", retry_seconds = 0.2, max_attempts = 6, reserve_gb = 0.0, threads = 1}}\n{text}\n'
        f'[[route]]\nname = "bright"\nmodel = "{model}"\nruntime = "onnxruntime"\n{route}\n'
    )
    return path


@contextmanager
def service(configuration: Path, *, faulty: Path | None = None, ready: bool = True) -> Iterator[Running]:
    """Run it until the end of the block.

    Args:
        faulty: a folder: each role is killed once at every stage, which is noted there.
        ready: whether to wait until every role is at work.
    """
    settings = read_settings(configuration)
    log = configuration.parent / f"log-{time.monotonic_ns()}.txt"
    command = [sys.executable, "-m", "sonodistill", "dicom", "serve", "--config", str(configuration)]
    if faulty is not None:
        faulty.mkdir(exist_ok=True)
        launcher = [sys.executable, str(FAULTY), str(faulty)]
        call = f"serve({str(configuration)!r}, launcher={launcher!r})"
        program = f"import sys; from sonodistill.dicom.service.run import serve; sys.exit({call})"
        command = [sys.executable, "-c", program]
    with log.open("wb") as output:
        process = subprocess.Popen(command, stdout=output, stderr=output, env={**os.environ, "OMP_NUM_THREADS": "1"})
    running = Running(process, settings.service.spool, log)
    try:
        if ready:
            wanted = set(roles_of(settings))
            running.wait(lambda: {sign.role for sign in signs(running.spool) if sign.ready} >= wanted, START_SECONDS)
        yield running
    finally:
        process.send_signal(signal.SIGTERM)
        try:
            process.wait(30)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()

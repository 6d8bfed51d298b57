"""The measurements, one after the other, on one server, in a folder that is removed afterwards."""

from __future__ import annotations

import importlib.util
import io
import json
import os
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import quote

import numpy as np
from PIL import Image

from sonodistill.errors import BundleConfigError
from sonodistill.frames import Frame, read
from sonodistill.inference.predictor import Predictor
from sonodistill_training.bench.dicom.clips import Loop, disk_loop
from sonodistill_training.bench.dicom.run import _ended_orderly
from sonodistill_training.bench.label.server import Served, ServerError, served
from sonodistill_training.bench.label.setup import Setup
from sonodistill_training.bench.label.studies import CINE, CINE_FRAMES, write_models, write_studies
from sonodistill_training.hardware import hardware

ALLOWED_MS = 15.0
"""That a request may cost beside the inference."""
_WARM = 3
_CLICKS = 5
_EMBED_SECONDS = 1800.0
_PNG = "image/png"


def bench_label(setup: Setup) -> dict[str, Any]:
    """All numbers: milliseconds over HTTP, and seconds from the start of a process to its first answer.

    ``infer_vs_predictor`` is (p95 over HTTP - 15 ms) / p95 of the bare Predictor: the goal is 1.3 at most. The two take
    turns, on frames that the server has decoded before. ``start_seconds`` is the worse of a start on a new folder and
    one on a folder that is known. Clicks are on a frame whose features are kept.

    Errors: BundleConfigError without MONAI Label; ServerError.
    """
    if importlib.util.find_spec("monailabel") is None:
        raise BundleConfigError("MONAI Label is not installed", remedy="pip install 'sonodistill[label]'")
    with _ended_orderly(), tempfile.TemporaryDirectory(prefix="sonodistill-bench-") as name:
        folder = Path(name)
        loop = disk_loop(setup.seed)
        studies, work = write_studies(folder / "studies", loop, setup), folder / "work"
        models = write_models(folder / "models", loop, setup)
        given = {name: path for name, path in models.items() if name != "interactive50"}
        with served(studies, given, work, threads=setup.threads) as server:
            starts, cpu = [server.start_seconds], server.start_cpu_seconds
            result = _embed(server, setup)
            cine = next(item["id"] for item in _items(server) if item["name"].endswith(f"{CINE}.dcm"))
            result |= _infer(server, cine, models["segmentation"], studies / CINE / f"{CINE}.dcm", setup)
            result |= _clicks(server, cine, loop, setup, "click")
            result |= _choose_and_write(server, setup)
        given["interactive"] = models["interactive50"]
        with served(studies, given, work, threads=setup.threads) as server:
            starts.append(server.start_seconds)
            added = max(one["number"] for one in server.json("GET", "/sonodistill/models")["interactive"]["versions"])
            server.ask("POST", "/sonodistill/models/interactive/promote", body={"number": added})
            result |= _clicks(server, cine, loop, setup, "click50")
    result |= {"start_seconds": max(starts), "start_new_seconds": starts[0], "start_known_seconds": starts[1]}
    result["start_cpu_seconds"] = cpu
    settings = {name: getattr(setup, name) for name in ("rounds", "threads", "input_size", "embedding_size")}
    return result | settings | {"encoders": list(setup.encoders)} | hardware()


def _items(server: Served) -> list[dict[str, Any]]:
    return server.json("GET", "/sonodistill/items", query={"limit": 10_000})["items"]


def _embed(server: Served, setup: Setup) -> dict[str, Any]:
    """Wait until the whole pool is embedded."""
    wanted, began = setup.clips * setup.frames + CINE_FRAMES, time.monotonic()

    def ready() -> bool:
        said = server.json("GET", "/sonodistill/progress")["embedding"]
        if said.get("error"):
            raise ServerError(f"the pool is not embedded: {said['error']}")
        return said["total"] >= wanted and said["embedded"] >= said["total"]

    server.wait(ready, _EMBED_SECONDS)
    return {"pool_frames": wanted, "embed_seconds": time.monotonic() - began}


def _infer(server: Served, cine: str, model: Path, file: Path, setup: Setup) -> dict[str, Any]:
    """The mask of a frame as PNG, in turns with the Predictor alone on the same frame."""
    predictor = Predictor(model, precision="auto", threads=setup.threads)
    frames: list[Frame] = list(read(file))
    form = _form({"params": json.dumps({"result_extension": ".png"})})

    def over_http(index: int) -> float:
        query = {"image": f"{cine}.f{index:05d}", "output": "image"}
        return server.timed("POST", "/infer/segmentation", query=query, body=form[0], content_type=form[1])[0]

    def bare(index: int) -> float:
        began = time.perf_counter()
        predictor.predict_one(frames[index])
        return 1000 * (time.perf_counter() - began)

    for index in range(len(frames)):
        server.ask("GET", f"/sonodistill/frame/{cine}.f{index:05d}.png")
    for index in range(_WARM):
        over_http(index), bare(index)
    both = [(over_http(number % len(frames)), bare(number % len(frames))) for number in range(setup.rounds)]
    ours, alone = (_p95(values) for values in zip(*both, strict=True))
    return {
        "infer_p95_ms": ours,
        "infer_p50_ms": float(np.median([one for one, _ in both])),
        "predictor_p95_ms": alone,
        "predictor_p50_ms": float(np.median([one for _, one in both])),
        "infer_overhead_ms": ours - alone,
        "infer_vs_predictor": (ours - ALLOWED_MS) / alone,
    }


def _clicks(server: Served, cine: str, loop: Loop, setup: Setup, name: str) -> dict[str, Any]:
    """Corrections one after the other, each with all clicks so far and the mask of the last; then another frame."""
    taken: list[float] = []
    rng = np.random.default_rng(setup.seed)
    height, width = loop.images[0].shape
    number = 0
    while len(taken) < setup.rounds:
        frame, session = f"{cine}.f{number % CINE_FRAMES:05d}", f"bench{number}"
        server.ask("POST", f"/sonodistill/embed/{frame}", body={})
        points: dict[str, list[list[float]]] = {"positive": [], "negative": []}
        for click in range(_CLICKS):
            points["positive" if click % 2 == 0 else "negative"].append(
                [float(rng.uniform(0, width - 1)), float(rng.uniform(0, height - 1))]
            )
            body = {**points, "session": session, "use_mask": click > 0}
            milliseconds, _ = server.timed("POST", f"/sonodistill/click/{frame}", body=body)
            if number:  # the first frame warms it up
                taken.append(milliseconds)
        number += 1
    return _times(name, taken)


def _choose_and_write(server: Served, setup: Setup) -> dict[str, Any]:
    """Ask what is next, look at it, accept a label of it, and ask again: what an annotator does all day."""
    chosen, ours, written = [], [], []
    for number in range(setup.rounds + _WARM):
        body = {"annotator": "bench"}
        milliseconds, answer = server.timed("POST", "/sonodistill/next", body=body)
        ours.append(milliseconds)
        frame = json.loads(answer)["frames"][0]["frame"]
        milliseconds, answer = server.timed("POST", "/activelearning/auto", body={"client_id": "bench"})
        chosen.append(milliseconds)
        if not json.loads(answer):
            raise ServerError("there is no next sample")
        image = np.asarray(Image.open(io.BytesIO(server.ask("GET", f"/sonodistill/frame/{frame}.png"))))
        mask = np.zeros(image.shape, np.uint8)
        mask[: 10 + number % 20, :30] = 1
        query = {"status": "accepted", "annotator": "bench"}
        path = f"/sonodistill/label/{quote(frame)}"
        written.append(server.timed("PUT", path, query=query, body=_png(mask), content_type=_PNG)[0])
    return {
        **_times("next_sample", chosen[_WARM:]),
        **_times("next", ours[_WARM:]),
        **_times("label_write", written[_WARM:]),
    }


def _png(mask: np.ndarray) -> bytes:
    with io.BytesIO() as file:
        Image.fromarray(mask).save(file, "PNG")
        return file.getvalue()


def _form(fields: dict[str, str]) -> tuple[bytes, str]:
    """A multipart form as clients send it: its bytes and content type."""
    boundary = os.urandom(8).hex()
    parts = [
        f'--{boundary}\r\nContent-Disposition: form-data; name="{name}"\r\n\r\n{value}\r\n'
        for name, value in fields.items()
    ]
    return "".join([*parts, f"--{boundary}--\r\n"]).encode(), f"multipart/form-data; boundary={boundary}"


def _times(name: str, milliseconds: list[float]) -> dict[str, float]:
    return {f"{name}_p95_ms": _p95(milliseconds), f"{name}_p50_ms": float(np.median(milliseconds))}


def _p95(values: Iterator[float] | list[float] | tuple[float, ...]) -> float:
    return float(np.percentile(list(values), 95))

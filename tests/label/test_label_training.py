"""Training on a running server, by its own routes and the stock client's, and in the process that MONAI Label starts.

The tests go on from one another: frames are accepted, a model is trained, used, rolled back, and a training is stopped.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import cv2
import numpy as np
import pytest
import requests

pytest.importorskip("monailabel", reason="monailabel is not installed; `pip install sonodistill[label]`")

from app_case import Server, serve
from monailabel.client import MONAILabelClient
from monailabel.client.client import MONAILabelClientException
from study_case import CLASSES, make_study, models, truth

TRAINING_SECONDS = 400
QUICK = {"max_epochs": 6, "batch_size": 8, "learning_rate": 3e-3}


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    folder = tmp_path_factory.mktemp("training")
    studies = make_study(folder / "studies", stills=2)
    with serve(
        studies, models(folder / "models"), work=folder / "work", conf={"classes": ",".join(CLASSES)}
    ) as running:
        yield running


@pytest.fixture(scope="module")
def client(server: Server, tmp_path_factory: pytest.TempPathFactory) -> MONAILabelClient:
    return MONAILabelClient(server.url, tmpdir=str(tmp_path_factory.mktemp("client")))


@pytest.fixture(scope="module")
def accepted(server: Server) -> dict[str, np.ndarray]:
    """Item -> the true mask, which was accepted."""
    found = {}
    for item in server.get("/sonodistill/items")["items"]:
        frame = server.get(f"/sonodistill/items/{item['id']}")["frames"][0]["id"]
        image = _gray(server.ask("GET", f"/sonodistill/frame/{frame}.png").content)
        mask = truth(image)
        png = cv2.imencode(".png", mask)[1].tobytes()
        headers = {"content-type": "image/png"}
        query = {"status": "accepted", "annotator": "ann"}
        server.ask("PUT", f"/sonodistill/label/{frame}", data=png, params=query, headers=headers)
        found[item["id"]] = mask
    return found


def _gray(png: bytes) -> np.ndarray:
    return cv2.imdecode(np.frombuffer(png, np.uint8), cv2.IMREAD_GRAYSCALE)


def dice_of(client: MONAILabelClient, accepted: dict[str, np.ndarray]) -> float:
    """Mean Dice of what a stock client is answered."""
    found = []
    for item, mask in accepted.items():
        path, _ = client.infer("segmentation", item, {"result_extension": ".png"})
        answer = cv2.imread(str(path), cv2.IMREAD_UNCHANGED) > 0
        Path(path).unlink()
        found.append(2 * (answer & (mask > 0)).sum() / max(1, answer.sum() + mask.sum()))
    return float(np.mean(found))


def progress(server: Server) -> dict:
    return server.get("/sonodistill/train")["segmentation"]


def wait(server: Server, condition: Callable[[], bool]) -> None:
    """As ``Server.wait``, for what takes long: asking costs the processor that trains."""

    def sometimes() -> bool:
        time.sleep(0.5)
        return condition()

    server.wait(sometimes, TRAINING_SECONDS)


def test_a_stock_client_trains_and_the_server_answers_better_without_a_restart(
    server: Server, client: MONAILabelClient, accepted: dict[str, np.ndarray]
) -> None:
    before = dice_of(client, accepted)
    started = client.train_start("segmentation", QUICK)
    assert started["request"]["model"] == "segmentation"
    assert client.train_status(check_if_running=True)
    wait(server, lambda: client.train_status()["status"] != "RUNNING")
    assert client.train_status()["status"] == "DONE", _log(server)
    assert not client.train_status(check_if_running=True)
    said = progress(server)
    assert (said["state"], said["version"], said["promoted"]) == ("done", 2, True)
    assert said["metrics"]["dice"] > said["metrics"]["dice_of_current"]
    after = dice_of(client, accepted)
    assert before < 0.4
    assert after > 0.7
    assert server.get("/info/")["trainers"]["segmentation"]["config"]["max_epochs"] == 50


def test_rollback_and_promotion_change_what_is_answered(
    server: Server, client: MONAILabelClient, accepted: dict[str, np.ndarray]
) -> None:
    trained = dice_of(client, accepted)
    server.ask("POST", "/sonodistill/models/segmentation/rollback")
    assert server.get("/sonodistill/models")["segmentation"]["current"] == 1
    assert dice_of(client, accepted) < 0.4
    assert server.request("POST", "/sonodistill/models/segmentation/rollback").status_code == 409
    server.ask("POST", "/sonodistill/models/segmentation/promote", json={"number": 2})
    assert dice_of(client, accepted) == pytest.approx(trained)


def test_a_training_is_watched_killed_gone_on_with_and_stopped(
    server: Server, client: MONAILabelClient, accepted: dict[str, np.ndarray]
) -> None:
    long = {"model": "segmentation", "max_epochs": 1000, "batch_size": 8}
    assert server.ask("POST", "/sonodistill/train", json=long).json()["state"] == "running"
    assert server.request("POST", "/sonodistill/train", json=long).status_code == 409
    with pytest.raises(MONAILabelClientException):
        client.train_start("classification", {})
    wait(server, lambda: (progress(server).get("epoch") or 0) >= 1)
    said = progress(server)
    assert said["of"] == 1000
    assert said["eta_seconds"] > 0
    assert said["loss"] > 0
    pid = json.loads((server.work / "training" / "segmentation" / "progress.json").read_text())["pid"]
    os.kill(pid, signal.SIGKILL)
    server.wait(lambda: progress(server)["state"] == "interrupted", 20)
    reached = progress(server)["epoch"]
    server.ask("POST", "/sonodistill/train", json=long)
    wait(server, lambda: progress(server).get("phase") == "training")
    assert progress(server)["epoch"] >= reached
    assert client.train_stop()["status"] == "STOPPED"
    assert progress(server)["state"] == "cancelled"
    assert server.get("/sonodistill/models")["segmentation"]["current"] == 2
    assert client.train_stop() is None


@pytest.mark.parametrize(
    ("body", "status"),
    [
        ({"model": "embedding"}, 404),
        ({"model": "../x"}, 404),
        ({"max_epochs": 0}, 422),
        ({"learning_rate": "fast"}, 422),
        ({"dataset_dir": "/"}, 422),
        ({"annotator": "../x"}, 400),
    ],
)
def test_what_cannot_be_trained_is_refused(server: Server, body: dict, status: int) -> None:
    answer = server.request("POST", "/sonodistill/train", json=body)
    assert answer.status_code == status
    assert "Traceback" not in answer.text


def test_too_few_labels_are_said_as_the_reason(server: Server, accepted: dict[str, np.ndarray]) -> None:
    server.ask("POST", "/sonodistill/train", json={"model": "classification"})
    wait(server, lambda: server.get("/sonodistill/train")["classification"]["state"] == "failed")
    assert "accepted frames" in server.get("/sonodistill/train")["classification"]["message"]


@pytest.mark.slow
def test_the_process_that_monai_label_starts_trains_too(server: Server, accepted: dict[str, np.ndarray]) -> None:
    app = server.studies.parent / "app"
    conf = {"work": str(server.work), "classes": ",".join(CLASSES), "threads": "1"}
    request = {"model": "segmentation", "max_epochs": 1, "batch_size": 8, "device": "cpu", "gpus": "all"}
    variables = {
        "MONAI_LABEL_APP_DIR": str(app),
        "MONAI_LABEL_STUDIES": str(server.studies),
        "MONAI_LABEL_APP_CONF": json.dumps(conf),
        "PYTHONPATH": os.pathsep.join((str(app), os.environ.get("PYTHONPATH", ""))),
        "OMP_NUM_THREADS": "1",
    }
    command = [sys.executable, "-m", "monailabel.interfaces.utils.app", "-m", "train", "-r", json.dumps(request)]
    done = subprocess.run(
        command, env={**os.environ, **variables}, capture_output=True, text=True, timeout=TRAINING_SECONDS
    )
    assert done.returncode == 0, done.stderr[-3000:]
    assert "epoch 1 of 1" in done.stderr
    assert progress(server)["state"] == "done"
    assert requests.get(f"{server.url}/info/", timeout=60).ok


def _log(server: Server) -> str:
    return (server.work / "training" / "segmentation" / "train.log").read_text(errors="replace")[-3000:]

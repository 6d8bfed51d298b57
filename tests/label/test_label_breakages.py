"""What breaks MONAI Label 0.8.5 on today's packages, one test for each: the app does not suffer it.

The server of this module runs without a network: what it tries to reach, other than this machine, is noted.
"""

from __future__ import annotations

import io
import json
import sys
from collections.abc import Iterator
from importlib.metadata import distributions, requires, version
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk
from PIL import Image

pytest.importorskip("monailabel", reason="monailabel is not installed; `pip install sonodistill[label]`")

from app_case import Server, make_models, make_studies, serve
from monailabel.client import MONAILabelClient
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

HEIGHT, WIDTH = 240, 320
# Run by every Python that starts with it on its path: the server and what it starts.
CUT = """
import os, socket
near = ("127.", "::1", "localhost")
def refuse(what):
    with open(os.environ["SONODISTILL_TEST_REACHED"], "a") as file:
        file.write(f"{what}\\n")
    raise OSError("the network is cut")
connect, lookup = socket.socket.connect, socket.getaddrinfo
def connected(self, address):
    if isinstance(address, tuple) and not str(address[0]).startswith(near):
        refuse(address)
    return connect(self, address)
def looked_up(host, *more, **named):
    if host is not None and not str(host).startswith(near):
        refuse(host)
    return lookup(host, *more, **named)
socket.socket.connect, socket.getaddrinfo = connected, looked_up
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("with a space")


@pytest.fixture(scope="module")
def server(folder: Path) -> Iterator[Server]:
    """Without a network, in folders with a space, and with weights of the segmentation alone."""
    (folder / "cut").mkdir()
    (folder / "cut" / "sitecustomize.py").write_text(CUT)
    nowhere = dict.fromkeys(("http_proxy", "https_proxy", "HTTP_PROXY", "HTTPS_PROXY"), "http://127.0.0.1:9")
    environment = {
        **nowhere,
        "no_proxy": "127.0.0.1",
        "PYTHONPATH": str(folder / "cut"),
        "SONODISTILL_TEST_REACHED": str(folder / "reached.txt"),
    }
    models = make_models(folder / "models", ["segmentation"])
    with serve(make_studies(folder), models, work=folder / "work", environment=environment) as running:
        yield running


@pytest.fixture(scope="module")
def client(server: Server, tmp_path_factory: pytest.TempPathFactory) -> MONAILabelClient:
    return MONAILabelClient(server.url, tmpdir=str(tmp_path_factory.mktemp("client")), client_id="ann")


def of_extra(extra: str) -> list[Requirement]:
    """What the distribution requires for an extra, or without one, and not for another."""
    found = [Requirement(text) for text in requires("sonodistill") or []]
    if not extra:
        return [one for one in found if not one.marker or one.marker.evaluate({"extra": ""})]
    return [one for one in found if one.marker and f'extra == "{extra}"' in str(one.marker)]


def refused(response, *statuses: int) -> str:
    """The reason, in JSON and without a trace."""
    assert response.status_code in (statuses or (400, 404, 409, 413, 422)), response.text
    assert response.headers["content-type"].startswith("application/json")
    assert "Traceback" not in response.text
    return response.json()["detail"]


def test_1_it_starts_with_pydicom_3(server: Server) -> None:
    assert int(version("pydicom").split(".")[0]) >= 3
    assert server.get("/info/")["name"].startswith("SonoDistill")


def test_2_only_the_extra_caps_numpy() -> None:
    capped = [one for one in of_extra("label") if one.name == "numpy"]
    assert capped and not capped[0].specifier.contains("2.0")
    for extra in ("", "torch", "train", "dicom", "export", "test"):
        numpy = [one for one in of_extra(extra) if one.name == "numpy"]
        assert all(one.specifier.contains("2.4") for one in numpy), extra


def test_3_a_nifti_volume_is_inferred(server: Server, client: MONAILabelClient) -> None:
    path, _ = client.infer("segmentation", server.item("volume"), {})
    assert sitk.ReadImage(path).GetSize() == (80, 64, 5)


@pytest.mark.parametrize("number_and_what", ["4 SAM2", "5 the model zoo", "6 dcmqi"])
def test_4_5_6_nothing_is_asked_of_the_network(server: Server, folder: Path, number_and_what: str) -> None:
    assert set(server.get("/info/")["models"]) == {"segmentation", "embedding"}
    assert not (folder / "reached.txt").exists(), f"{number_and_what}: {(folder / 'reached.txt').read_text()}"
    assert not list((folder / "app" / "bin").iterdir())


def test_the_network_is_cut(folder: Path, server: Server) -> None:
    import os
    import subprocess

    code = "import urllib.request; urllib.request.urlopen('http://192.0.2.1/', timeout=1)"
    variables = {"PYTHONPATH": str(folder / "cut"), "SONODISTILL_TEST_REACHED": str(folder / "tried.txt")}
    plain = {name: value for name, value in os.environ.items() if "proxy" not in name.lower()}
    process = subprocess.run([sys.executable, "-c", code], env={**plain, **variables}, capture_output=True, timeout=60)
    assert b"the network is cut" in process.stderr
    assert "192.0.2.1" in (folder / "tried.txt").read_text()


def test_7_8_a_mask_is_a_png_of_two_dimensions_and_eight_bits(server: Server) -> None:
    frame = f"{server.item('cine')}.f00004"
    form = {"params": (None, "{}")}
    query = {"image": frame, "output": "image"}
    with Image.open(io.BytesIO(server.ask("POST", "/infer/segmentation", params=query, files=form).content)) as image:
        assert (image.format, image.mode, image.size) == ("PNG", "L", (WIDTH, HEIGHT))


def test_9_many_images_are_predicted_without_a_gpu(server: Server) -> None:
    completed = server.get("/datastore/")["completed"]
    answer = server.ask("POST", "/batch/infer/segmentation", params={"run_sync": "true"}, json={}).json()
    assert {image: one["frames"] for image, one in answer.items()}[server.item("cine")] == 30
    query = {"label": server.item("gray"), "tag": "original"}
    with Image.open(io.BytesIO(server.ask("GET", "/datastore/label", params=query).content)) as image:
        assert (image.format, image.mode, image.size) == ("PNG", "L", (240, 200))
    status = server.get("/datastore/")
    assert (status["completed"], status["frames"]["predicted"]) == (completed, 38)


def test_10_a_model_without_weights_can_be_trained_but_not_asked(server: Server) -> None:
    assert "classification" in server.get("/info/")["trainers"]
    reason = refused(server.infer("classification", server.item("gray")), 409)
    assert "no weights" in reason


@pytest.mark.parametrize(
    ("method", "path", "statuses"),
    [
        ("POST", "/infer/nothing?image=IMAGE", (404,)),
        ("POST", "/infer/segmentation?image=nothing", (404,)),
        ("POST", "/infer/segmentation?image=IMAGE.f00099", (404,)),
        ("POST", "/infer/segmentation", (400, 422)),
        ("POST", "/infer/interactive?image=IMAGE", (409,)),
        ("POST", "/activelearning/nothing", (404,)),
        ("GET", "/datastore/image?image=nothing", (404,)),
        ("GET", "/datastore/label?label=IMAGE&tag=final", (404,)),
        ("GET", "/datastore/label/info?label=nothing&tag=final", (404,)),
        ("DELETE", "/datastore/label?id=IMAGE&tag=final", (404,)),
        ("GET", "/session/123e4567-e89b-12d3-a456-426614174000", (404,)),
        ("POST", "/scoring/nothing", (404,)),
        ("GET", "/model/nothing", (404,)),
        ("GET", "/nothing", (404,)),
    ],
)
def test_11_what_cannot_be_served_is_told_in_json(server: Server, method: str, path: str, statuses) -> None:
    form = {"params": (None, "{}")} if method == "POST" and "infer" in path else None
    refused(server.request(method, path.replace("IMAGE", server.item("cine")), files=form), *statuses)


@pytest.mark.parametrize("params", ["{", "[]", '{"a": NaN}', "null and more"])
def test_11_parameters_that_are_no_json_are_refused(server: Server, params: str) -> None:
    response = server.request(
        "POST", "/infer/segmentation", params={"image": server.item("gray")}, files={"params": (None, params)}
    )
    refused(response, 400, 422)


def nifti(mask: np.ndarray, folder: Path) -> bytes:
    sitk.WriteImage(sitk.GetImageFromArray(mask), str(folder / "mask.nii.gz"))
    return (folder / "mask.nii.gz").read_bytes()


def png(array: np.ndarray) -> bytes:
    file = io.BytesIO()
    Image.fromarray(array).save(file, "PNG")
    return file.getvalue()


def test_12_only_a_label_becomes_one(server: Server, folder: Path) -> None:
    frame, before = f"{server.item('cine')}.f00008", server.get("/datastore/")["completed"]
    good = np.zeros((HEIGHT, WIDTH), np.uint8)
    whole = nifti(good[None], folder)
    header = b"NRRD0004\ntype: uint8\ndimension: 2\nsizes: 320 240\nencoding: raw\n"
    wrong = {
        "error.png": b"<html>502</html>",
        "empty.png": b"",
        "error.nii.gz": b"Internal Server Error",
        "cut.nii.gz": whole[: len(whole) // 2],
        "cut.png": png(np.random.default_rng(0).integers(0, 2, good.shape, np.uint8))[:-300],
        "other-size.png": png(np.zeros((HEIGHT, WIDTH + 1), np.uint8)),
        "other-number.png": png(np.full_like(good, 7)),
        "colour.png": png(np.zeros((HEIGHT, WIDTH, 3), np.uint8)),
        "fractions.nii.gz": nifti(np.full((1, HEIGHT, WIDTH), 0.5, np.float32), folder),
        "negative.nii.gz": nifti(np.full((1, HEIGHT, WIDTH), -1, np.int16), folder),
        "stack.nii.gz": nifti(np.zeros((2, HEIGHT, WIDTH), np.uint8), folder),
        "detached.nrrd": header + b"data file: /etc/passwd\n\n",
        "short.nrrd": header + b"\n" + bytes(100),
        "short.bin": bytes(100),
    }
    for name, content in wrong.items():
        response = server.request("PUT", "/datastore/label", params={"image": frame}, files={"label": (name, content)})
        assert refused(response), name
    assert server.get("/datastore/")["completed"] == before
    assert server.get("/datastore/image/info", image=frame)["statuses"].get("8") != "accepted"
    for name, content in (("good.png", png(good)), ("good.nii.gz", whole)):
        server.ask("PUT", "/datastore/label", params={"image": frame}, files={"label": (name, content)})


@pytest.mark.parametrize(
    "escape",
    ["../escaped", "..%2fescaped", "/etc/escaped", "a/../../escaped", "..\\escaped", "a\0b", ".", "..", "x" * 300],
)
def test_13_no_name_leads_out_of_the_studies(server: Server, folder: Path, escape: str) -> None:
    before = {path for path in folder.rglob("*") if "escaped" in path.name}
    image = {"file": ("escaped.png", png(np.zeros((20, 30), np.uint8)))}
    refused(server.request("PUT", "/datastore/image", params={"image": escape}, files=image))
    refused(server.request("GET", "/datastore/image", params={"image": escape}))
    refused(server.infer("segmentation", escape))
    label = {"label": ("mask.png", png(np.zeros((HEIGHT, WIDTH), np.uint8)))}
    query = {"image": f"{server.item('cine')}.f00001", "tag": escape}
    refused(server.request("PUT", "/datastore/label", params=query, files=label))
    refused(server.request("DELETE", "/datastore/image", params={"id": escape}))
    refused(
        server.request("POST", "/infer/segmentation", params={"session_id": escape}, files={"params": (None, "{}")})
    )
    assert {path for path in folder.rglob("*") if "escaped" in path.name} == before


def test_13_a_path_in_the_parameters_is_no_image(server: Server, folder: Path) -> None:
    (folder / "secret.png").write_bytes(png(np.zeros((20, 30), np.uint8)))
    for name in ("image", "label", "session", "model"):
        form = {"params": (None, json.dumps({name: str(folder / "secret.png")}))}
        refused(server.request("POST", "/infer/segmentation", params={"image": server.item("gray")}, files=form))
    refused(server.infer("segmentation", str(folder / "secret.png")))
    assert (folder / "secret.png").exists()


def test_14_it_starts_without_the_script_and_where_paths_have_spaces(server: Server) -> None:
    assert list(server.process.args)[:3] == [sys.executable, "-m", "monailabel.main"]
    assert " " in str(server.studies)


def test_15_distutils_comes_with_the_extra() -> None:
    setuptools = [one for one in of_extra("label") if one.name == "setuptools"]
    assert setuptools and 'python_version >= "3.12"' in str(setuptools[0].marker)


def test_16_what_is_installed_goes_together() -> None:
    # As `uv pip check` does; `pip check` fails on the file name of itk's wheel.
    installed = {canonicalize_name(one.metadata["Name"]): one.version for one in distributions()}
    wrong = []
    for name in ("sonodistill", "monailabel", "monai", "pydicom-seg", "numpymaxflow", "fastapi", "torch"):
        for text in requires(name) or []:
            one = Requirement(text)
            if one.marker and not one.marker.evaluate({"extra": "label" if name == "sonodistill" else ""}):
                continue
            held = installed.get(canonicalize_name(one.name))
            if held is None or not one.specifier.contains(held, prereleases=True):
                wrong.append(f"{name} needs {one}, there is {held}")
    assert not wrong

"""MONAI Label's own clients on a running server: its Python client, and the requests of 3D Slicer's module and OHIF."""

from __future__ import annotations

import io
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import SimpleITK as sitk
from PIL import Image

pytest.importorskip("monailabel", reason="monailabel is not installed; `pip install sonodistill[label]`")

from app_case import CLASSES, Server
from monailabel.client import MONAILabelClient
from monailabel.client.client import MONAILabelClientException
from requests_toolbelt.multipart import decoder

from sonodistill.frames import read
from sonodistill.inference.predictor import Predictor

FRAMES, HEIGHT, WIDTH = 30, 240, 320


@pytest.fixture(scope="module")
def client(server: Server, tmp_path_factory: pytest.TempPathFactory) -> MONAILabelClient:
    return MONAILabelClient(server.url, tmpdir=str(tmp_path_factory.mktemp("client")), client_id="ann")


@pytest.fixture(scope="module")
def predictor(server: Server) -> Callable[[str], Predictor]:
    held: dict[str, Predictor] = {}

    def of(name: str) -> Predictor:
        if name not in held:
            held[name] = Predictor(
                server.studies.parent / "models" / f"{name}.safetensors", precision="auto", threads=1
            )
        return held[name]

    return of


def cine_frames(server: Server, *indices: int) -> list[Any]:
    return list(read(server.studies / "a" / "cine.dcm", only=indices or None))


def gray(content: bytes | Path) -> np.ndarray:
    with Image.open(io.BytesIO(content) if isinstance(content, bytes) else content) as image:
        assert image.mode == "L"
        return np.array(image)


def stack(path: str | Path) -> np.ndarray:
    """(frames, H, W) of NRRD or NIfTI."""
    return sitk.GetArrayFromImage(sitk.ReadImage(str(path)))


def mask_file(path: Path, mask: np.ndarray) -> str:
    if mask.ndim == 2 and path.suffix == ".png":
        Image.fromarray(mask).save(path)
    else:
        sitk.WriteImage(sitk.GetImageFromArray(mask), str(path))
    return str(path)


def square(y: int, x: int, side: int = 20, shape: tuple[int, int] = (HEIGHT, WIDTH), number: int = 1) -> np.ndarray:
    mask = np.zeros(shape, np.uint8)
    mask[y : y + side, x : x + side] = number
    return mask


# What there is


def test_information_is_what_clients_read(client: MONAILabelClient) -> None:
    info = client.info()
    assert info["labels"] == ["lesion"]
    models = info["models"]
    assert {name: model["type"] for name, model in models.items()} == {
        "segmentation": "segmentation",
        "interactive": "deepgrow",
        "classification": "classification",
        "embedding": "others",
    }
    assert models["segmentation"]["labels"] == {"lesion": 1}
    assert set(models["classification"]["labels"]) == set(CLASSES)
    for model in models.values():
        assert model["dimension"] == 2 and model["description"] and model["version"] == 1
        assert isinstance(model["config"], dict)
    assert {"first", "random"} < set(info["strategies"])
    assert {"segmentation", "classification", "interactive"} == set(info["trainers"])
    assert info["datastore"]["total"] == 5
    assert info["datastore"]["frames"]["total"] == FRAMES + 3 + 5


def test_images_are_items_and_their_frames_are_images(server: Server) -> None:
    cine = server.item("cine")
    frame = cine_frames(server, 7)[0]
    assert np.array_equal(
        gray(server.ask("GET", "/datastore/image", params={"image": f"{cine}.f00007"}).content), frame.image
    )
    assert server.request("HEAD", "/datastore/image", params={"image": cine}).status_code == 200
    info = server.get("/datastore/image/info", image=f"{cine}.f00007")
    assert (info["item"], info["frame"], info["name"]) == (cine, 7, f"{cine}.f00007.png")
    assert server.get("/datastore/image/info", image=cine)["frames"] == FRAMES


def test_a_cine_is_downloaded_with_its_frames_slowest(server: Server, tmp_path: Path) -> None:
    response = server.ask("GET", "/datastore/image", params={"image": server.item("cine")})
    (tmp_path / "cine.nrrd").write_bytes(response.content)
    pixels = stack(tmp_path / "cine.nrrd")
    assert pixels.dtype == np.uint8
    assert np.array_equal(pixels, np.stack([frame.image for frame in cine_frames(server)]))
    # The size of its pixels is unknown, and nothing says that it were known.
    assert cine_frames(server, 0)[0].mm_per_pixel is None
    assert b"units" not in response.content.partition(b"\n\n")[0]


def test_a_volume_is_downloaded_as_it_is(server: Server) -> None:
    content = server.ask("GET", "/datastore/image", params={"image": server.item("volume")}).content
    assert content == (server.studies / "b" / "volume.nii.gz").read_bytes()


def test_a_colour_still_is_downloaded_in_gray(server: Server) -> None:
    content = server.ask("GET", "/datastore/image", params={"image": server.item("palette")}).content
    assert np.array_equal(gray(content), next(read(server.studies / "a" / "palette.dcm")).image)


def test_a_download_is_called_by_its_id(server: Server) -> None:
    response = server.ask("GET", "/datastore/image", params={"image": server.item("gray")})
    assert f"{server.item('gray')}.png" in response.headers["content-disposition"]


# Inference


@pytest.mark.parametrize("part", ["palette", "still", "gray"])
def test_a_still_is_segmented_as_the_predictor_does(server, client, predictor, part: str) -> None:
    path, params = client.infer("segmentation", server.item(part), {})
    file = next(server.studies.glob(f"*/{part}.*"))
    expected = predictor("segmentation").predict_one(next(read(file))).mask
    assert np.array_equal(gray(Path(path)), expected.astype(np.uint8))
    assert params["label_names"] == {"lesion": 1} and params["version"] == 1
    assert 0 <= params["confidence"][0] <= 1 and params["latencies"]["total"] > 0


def test_a_frame_is_segmented_on_its_own_grid(server, client, predictor) -> None:
    path, params = client.infer("segmentation", f"{server.item('cine')}.f00012", {})
    expected = predictor("segmentation").predict_one(cine_frames(server, 12)[0]).mask
    mask = gray(Path(path))
    assert (mask.shape, mask.dtype) == ((HEIGHT, WIDTH), np.uint8)
    assert np.array_equal(mask, expected)
    assert params["image"] == f"{server.item('cine')}.f00012"


def test_a_cine_is_segmented_frame_by_frame(server, client, predictor) -> None:
    path, params = client.infer("segmentation", server.item("cine"), {})
    masks = stack(path)
    assert masks.shape == (FRAMES, HEIGHT, WIDTH) and len(params["confidence"]) == FRAMES
    for frame, mask in zip(cine_frames(server), masks, strict=True):
        assert np.array_equal(mask, predictor("segmentation").predict_one(frame).mask)


def test_a_result_has_the_extension_that_is_asked_for(server, client) -> None:
    frame = f"{server.item('cine')}.f00001"
    reference = gray(Path(client.infer("segmentation", frame, {})[0]))
    for extension in (".nrrd", ".nii.gz"):
        path, _ = client.infer("segmentation", frame, {"result_extension": extension})
        assert path.endswith(extension)
        assert np.array_equal(stack(path), reference[None])
    refused = server.infer("segmentation", server.item("cine"), {"result_extension": ".png"})
    assert refused.status_code == 400 and ".nrrd" in refused.json()["remedy"]


def test_the_mask_of_a_volume_lies_where_the_volume_lies(server, client) -> None:
    for extension in (".nrrd", ".nii.gz"):
        path, _ = client.infer("segmentation", server.item("volume"), {"result_extension": extension})
        mask, volume = sitk.ReadImage(path), sitk.ReadImage(str(server.studies / "b" / "volume.nii.gz"))
        assert mask.GetSize() == volume.GetSize()
        assert mask.GetSpacing() == pytest.approx(volume.GetSpacing())
        assert mask.GetOrigin() == pytest.approx(volume.GetOrigin())
        assert mask.GetDirection() == pytest.approx(volume.GetDirection())


def test_a_classification_is_among_the_parameters(server, predictor) -> None:
    response = server.infer("classification", f"{server.item('cine')}.f00003")
    params, expected = response.json(), predictor("classification").predict_one(cine_frames(server, 3)[0])
    assert params["prediction"] == expected.label
    assert params["classification"][0]["label"] == expected.label
    assert [params["probabilities"][name] for name in CLASSES] == pytest.approx(expected.probabilities, abs=1e-3)
    of_all = server.infer("classification", server.item("cine")).json()
    assert [one["frame"] for one in of_all["classification"]] == list(range(FRAMES))


def test_an_embedding_is_among_the_parameters(server, predictor) -> None:
    params = server.infer("embedding", server.item("gray")).json()
    expected = predictor("embedding").predict_one(next(read(server.studies / "b" / "gray.png"))).embedding
    assert params["embedding"] == pytest.approx(expected, rel=0.02, abs=0.02)


def test_a_file_is_inferred_without_being_an_image_of_the_datastore(server, client, predictor) -> None:
    file = server.studies / "b" / "gray.png"
    path, params = client.infer("segmentation", "", {}, file=str(file))
    assert np.array_equal(gray(Path(path)), predictor("segmentation").predict_one(next(read(file))).mask)
    assert len(client.datastore()["objects"]) >= 5
    assert "gray" not in params["image"]


# Clicks


def test_a_click_on_a_frame_of_a_cine_fills_that_slice_alone(server, client) -> None:
    points = {"foreground": [[160, 100, 9]], "background": [[10, 10, 9]]}
    path, params = client.infer("interactive", server.item("cine"), points)
    masks = stack(path)
    assert masks.shape == (FRAMES, HEIGHT, WIDTH) and params["frames"] == [9]
    assert set(np.flatnonzero(masks.any((1, 2)))) <= {9}


def test_the_second_click_uses_the_kept_features(server, client) -> None:
    frame = f"{server.item('cine')}.f00020"
    _, first = client.infer("interactive", frame, {"foreground": [[100, 100]]})
    _, second = client.infer("interactive", frame, {"foreground": [[100, 100], [120, 90]]})
    assert (first["cached"], second["cached"]) == (False, True)


def test_the_same_clicks_get_the_same_mask_whatever_was_clicked_between(server, client) -> None:
    frame = f"{server.item('cine')}.f00021"
    clicks = {"foreground": [[150, 110]], "background": [[30, 200]]}
    first = gray(Path(client.infer("interactive", frame, dict(clicks))[0]))
    client.infer("interactive", frame, {"foreground": [[150, 110], [60, 60]], "background": [[30, 200]]})
    undone = gray(Path(client.infer("interactive", frame, dict(clicks))[0]))
    assert np.array_equal(first, undone)


def test_box_and_mask_so_far_are_taken(server, client, tmp_path: Path) -> None:
    item = server.item("gray")
    shape = next(read(server.studies / "b" / "gray.png")).image.shape
    plain = gray(Path(client.infer("interactive", item, {"foreground": [[100, 100]], "reset_state": True})[0]))
    boxed = gray(Path(client.infer("interactive", item, {"box": [20, 30, 90, 80], "reset_state": True})[0]))
    before = mask_file(tmp_path / "before.png", square(40, 50, 60, shape))
    path, _ = client.infer("interactive", item, {"foreground": [[100, 100]]}, label_in=before)
    assert gray(Path(path)).shape == shape
    assert not np.array_equal(plain, boxed)
    assert not np.array_equal(plain, gray(Path(path)))


@pytest.mark.parametrize(
    "params",
    [
        {"foreground": [[5000, 10, 3]]},
        {"foreground": [[10, 10, 99]]},
        {"foreground": [[10, 10]]},
        {"foreground": "no list"},
        {"foreground": [[10, "a", 3]]},
        {"box": [1, 2, 3]},
        {},
    ],
)
def test_clicks_that_mean_nothing_are_refused(server: Server, params: dict[str, Any]) -> None:
    response = server.infer("interactive", server.item("cine"), params)
    assert response.status_code == 422, response.text
    assert response.json()["detail"]


# Labels


def test_a_label_comes_back_as_it_was_saved(server, client, tmp_path: Path) -> None:
    frame, mask = f"{server.item('cine')}.f00015", square(50, 60)
    client.save_label(
        frame, mask_file(tmp_path / "mask.png", mask), params={"label_info": [{"name": "lesion", "idx": 1}]}
    )
    assert np.array_equal(gray(Path(client.download_label(frame, "final"))), mask)
    info = server.get("/datastore/label/info", label=frame, tag="final")
    assert (info["status"], info["annotator"]) == ("accepted", "ann")
    listed = client.datastore()["objects"]
    assert listed[frame]["labels"]["final"]["info"]["annotator"] == "ann"
    assert listed[server.item("cine")]["image"]["info"]["statuses"]["15"] == "accepted"


def test_a_label_counts_as_completed_and_a_prediction_does_not(server, client) -> None:
    before = client.info()["datastore"]
    item = server.item("palette")
    client.infer("segmentation", item, {"save_label": True})
    after = client.info()["datastore"]
    assert after["completed"] == before["completed"]
    assert after["label_tags"]["original"] == before["label_tags"].get("original", 0) + 1
    info = server.get("/datastore/label/info", label=item, tag="original")
    assert (info["status"], info["model"]) == ("predicted", "segmentation 1")
    assert 0 <= info["confidence"] <= 1


def test_of_a_stack_only_what_was_drawn_is_kept(server, client, tmp_path: Path) -> None:
    item = server.item("volume")
    masks = np.zeros((5, 64, 80), np.uint8)
    masks[2] = square(10, 20, 8, (64, 80))
    client.save_label(item, mask_file(tmp_path / "stack.nrrd", masks))
    assert server.get("/datastore/image/info", image=item)["statuses"] == {"2": "accepted"}
    # The next save erases it: that frame had a label, so an empty one replaces it; and frame 4 is named.
    masks[2], masks[3] = 0, square(20, 30, 8, (64, 80))
    client.save_label(item, mask_file(tmp_path / "stack.nii.gz", masks), params={"frames": [4]})
    statuses = server.get("/datastore/image/info", image=item)["statuses"]
    assert statuses == {"2": "accepted", "3": "accepted", "4": "accepted"}
    assert np.array_equal(stack(client.download_label(item, "final")), masks)


def test_a_tag_is_the_unfinished_work_of_that_name(server, client, tmp_path: Path) -> None:
    frame = f"{server.item('cine')}.f00016"
    client.save_label(frame, mask_file(tmp_path / "final.png", square(10, 10)))
    client.save_label(frame, mask_file(tmp_path / "draft.png", square(90, 90)), tag="version_1")
    assert np.array_equal(gray(Path(client.download_label(frame, "final"))), square(10, 10))
    assert np.array_equal(gray(Path(client.download_label(frame, "version_1"))), square(90, 90))
    assert server.get("/datastore/label/info", label=frame, tag="version_1")["status"] == "edited"
    server.ask("DELETE", "/datastore/label", params={"id": frame, "tag": "version_1"})
    assert server.request("GET", "/datastore/label", params={"label": frame, "tag": "version_1"}).status_code == 404
    assert server.request("GET", "/datastore/label", params={"label": frame, "tag": "final"}).status_code == 200


def test_a_prediction_does_not_replace_what_a_person_said(server, client, tmp_path: Path) -> None:
    frame, mask = f"{server.item('cine')}.f00017", square(70, 70)
    client.save_label(frame, mask_file(tmp_path / "mask.png", mask))
    response = server.infer("segmentation", frame, {"save_label": True})
    assert response.status_code == 409
    assert np.array_equal(gray(Path(client.download_label(frame, "final"))), mask)


def test_numbers_are_the_client_s_own(server, client, tmp_path: Path) -> None:
    frame = f"{server.item('cine')}.f00018"
    info = [{"name": "other", "idx": 1}, {"name": "lesion", "idx": 2}]
    file = mask_file(tmp_path / "two.png", square(30, 30, number=2))
    client.save_label(frame, file, params={"label_info": info})
    assert np.array_equal(gray(Path(client.download_label(frame, "final"))), square(30, 30))
    with pytest.raises(MONAILabelClientException, match="422"):  # drawn as "other", which is no label here
        client.save_label(frame, mask_file(tmp_path / "one.png", square(30, 30)), params={"label_info": info})


def test_information_is_kept_with_a_label(server, client, tmp_path: Path) -> None:
    frame, mask = f"{server.item('cine')}.f00019", square(40, 40)
    client.save_label(frame, mask_file(tmp_path / "mask.png", mask))
    meta = {"segmentationMeta": {"status": "approved", "level": "easy"}}
    # As the module MONAI Label Reviewer sends it.
    server.ask(
        "PUT", "/datastore/updatelabelinfo", params={"label": frame, "tag": "final"}, data={"params": json.dumps(meta)}
    )
    info = server.get("/datastore/label/info", label=frame, tag="final")
    assert info["segmentationMeta"] == meta["segmentationMeta"]
    assert np.array_equal(gray(Path(client.download_label(frame, "final"))), mask)
    assert info["status"] == "accepted"


# What is next


def test_the_next_sample_is_a_frame_that_is_not_labelled_yet(server, client, tmp_path: Path) -> None:
    for strategy in ("first", "random", next(iter(client.info()["strategies"]))):
        sample = client.next_sample(strategy, {})
        image = gray(server.ask("GET", "/datastore/image", params={"image": sample["id"]}).content)
        statuses = server.get("/datastore/image/info", image=sample["id"])["statuses"]
        assert not set(statuses.values()) & {"accepted", "skipped"}
        assert sample["name"].endswith(".png") and sample["why"]
        if sample["path"]:
            assert np.array_equal(gray(Path(sample["path"])), image)
        client.save_label(sample["id"], mask_file(tmp_path / "mask.png", np.zeros(image.shape, np.uint8)))
        assert client.next_sample(strategy, {})["id"] != sample["id"]


def test_annotators_are_not_sent_to_the_same_frame(server: Server) -> None:
    samples = [
        server.ask("POST", "/activelearning/first", json={"client_id": name}).json()["id"] for name in ("b", "c")
    ]
    assert samples[0] != samples[1]


# Sessions and uploads


def test_a_session_is_inferred_and_clicked(server, client, predictor, tmp_path: Path) -> None:
    file = tmp_path / "scene.nii.gz"
    sitk.WriteImage(sitk.ReadImage(str(server.studies / "b" / "volume.nii.gz"))[:, :, 1:4], str(file))
    session = client.create_session(str(file))["session_id"]
    assert client.get_session(session)
    path, _ = client.infer("segmentation", "MRHead", {}, session_id=session)
    masks, frames = stack(path), list(read(file))
    assert masks.shape == (3, 64, 80)
    assert np.array_equal(masks[1], predictor("segmentation").predict_one(frames[1]).mask)
    found = [client.infer("interactive", "MRHead", {"foreground": [[30, 30, 2]]}, session_id=session)[1] for _ in "ab"]
    assert [one["cached"] for one in found] == [False, True]
    client.remove_session(session)
    with pytest.raises(MONAILabelClientException):
        client.get_session(session)
    assert server.request("POST", "/infer/segmentation", params={"session_id": session}).status_code == 404


def test_what_is_no_image_does_not_become_one(server, client, tmp_path: Path) -> None:
    (tmp_path / "page.nii.gz").write_text("<html>502 Bad Gateway</html>")
    with pytest.raises(MONAILabelClientException, match="Status: 4"):
        client.upload_image(str(tmp_path / "page.nii.gz"), "page")
    session = server.request("PUT", "/session/", files={"files": ("page.png", b"no image")})
    if session.ok:
        response = server.request("POST", "/infer/segmentation", params={"session_id": session.json()["session_id"]})
        assert 400 <= response.status_code < 500


def test_an_upload_goes_by_the_name_that_the_sender_gave_it(server, client, tmp_path: Path) -> None:
    # Slicer goes on with the name of its volume, whatever the server answers.
    image = next(read(server.studies / "b" / "gray.png")).image[:100, :120]
    Image.fromarray(image).save(tmp_path / "scene.png")
    answer = client.upload_image(str(tmp_path / "scene.png"), "My_volume")
    assert answer["image"] in client.datastore()["objects"]
    mask = square(10, 10, 30, image.shape)
    client.save_label("My_volume", mask_file(tmp_path / "mask.png", mask))
    assert np.array_equal(gray(Path(client.download_label(answer["image"], "final"))), mask)
    path, _ = client.infer("segmentation", "My_volume", {})
    assert gray(Path(path)).shape == image.shape
    server.ask("DELETE", "/datastore/image", params={"id": answer["image"]})
    assert server.request("GET", "/datastore/image", params={"image": "My_volume"}).status_code == 404
    assert server.request("DELETE", "/datastore/image", params={"id": server.item("gray")}).status_code == 409


# Requests of 3D Slicer's module (plugins/slicer/MONAILabel of MONAI Label 0.8.5), as it writes them

_LIMIT = "----------lImIt_of_THE_fIle_eW_$"


def slicer(
    server: Server, method: str, path: str, fields: dict[str, Any] | None = None, files: dict[str, Path] | None = None
) -> Any:
    """A multipart request by hand: its boundary, full paths as names of files, no quoting; JSON without files."""
    parts = [
        f'--{_LIMIT}\r\nContent-Disposition: form-data; name="{key}"\r\n\r\n{json.dumps(value)}\r\n'.encode()
        for key, value in (fields or {}).items()
    ]
    for key, file in (files or {}).items():
        head = f'--{_LIMIT}\r\nContent-Disposition: form-data; name="{key}"; filename="{file}"\r\n'
        parts.append(f"{head}Content-Type: application/octet-stream\r\n\r\n".encode() + file.read_bytes() + b"\r\n")
    body = b"".join([*parts, f"--{_LIMIT}--\r\n\r\n".encode()])
    return server.ask(method, path, data=body, headers={"content-type": f"multipart/form-data; boundary={_LIMIT}"})


def slicer_mask(response: Any, path: Path) -> tuple[np.ndarray, dict[str, Any]]:
    """The file and the parameters of an answer of several parts."""
    mask, params = None, {}
    for part in decoder.MultipartDecoder.from_response(response).parts:
        if b"filename=" in part.headers[b"Content-Disposition"]:
            path.write_bytes(part.content)
            mask = stack(path)
        else:
            params = json.loads(part.content)
    assert mask is not None
    return mask, params


def test_slicer_fetches_a_sample_and_segments_it(server: Server, tmp_path: Path) -> None:
    info = server.get("/info/")
    assert not info.get("config")  # of a server that is too old for it
    sample = server.ask("POST", "/activelearning/first", json={"client_id": "user-xyz"}).json()
    objects = server.get("/datastore/", output="all")["objects"]
    item = sample["id"].rpartition(".f")[0]
    assert objects.get(sample["id"], objects[item])["labels"].get("original", {}) is not None
    image = gray(server.ask("GET", f"/datastore/image?image={sample['id']}").content)
    params = {"client_id": "user-xyz", "result_extension": ".nrrd", "result_dtype": "uint8"}
    response = slicer(server, "POST", f"/infer/segmentation?image={sample['id']}", {"params": params})
    mask, said = slicer_mask(response, tmp_path / "result.nrrd")
    assert mask.shape == (1, *image.shape) and mask.dtype == np.uint8  # as Slicer loads the PNG: one slice
    assert said["label_names"] == {"lesion": 1}


def test_slicer_clicks_on_a_slice_of_a_cine(server: Server, tmp_path: Path) -> None:
    params = {
        "label": "lesion",
        "foreground": [[160, 120, 11], [150, 110, 11]],
        "background": [],
        "roi": [190, 120, 90, 150, 0, 22],
        "slice": 11,
        "reset_state": True,
        "client_id": "user-xyz",
        "result_extension": ".nrrd",
        "result_dtype": "uint8",
    }
    response = slicer(server, "POST", f"/infer/interactive?image={server.item('cine')}", {"params": params})
    masks, said = slicer_mask(response, tmp_path / "result.nrrd")
    assert masks.shape == (FRAMES, HEIGHT, WIDTH) and said["frames"] == [11]
    assert said["label_names"] == {"lesion": 1}
    # On the first slice it sends the clicks on all of them.
    params.update(foreground=[[160, 120, 0], [150, 110, 11]], slice=0, roi=[])
    del params["reset_state"]
    response = slicer(server, "POST", f"/infer/interactive?image={server.item('cine')}", {"params": params})
    assert slicer_mask(response, tmp_path / "first.nrrd")[1]["frames"] == [0]


def test_slicer_submits_a_label_of_a_cine(server: Server, tmp_path: Path) -> None:
    masks = np.zeros((FRAMES, HEIGHT, WIDTH), np.int16)  # a label map volume
    masks[5] = square(100, 100)
    path = tmp_path / "tmp4x1zw.nii.gz"
    sitk.WriteImage(sitk.GetImageFromArray(masks), str(path))
    params = {"label_info": [{"name": "lesion", "idx": 1}], "client_id": "user-xyz"}
    answer = slicer(server, "PUT", f"/datastore/label?image={server.item('cine')}", {"params": params}, {"label": path})
    assert answer.json()["label"]
    info = server.get("/datastore/label/info", label=f"{server.item('cine')}.f00005", tag="final")
    assert (info["status"], info["annotator"]) == ("accepted", "user-xyz")
    assert (
        server.request(
            "GET", "/datastore/label/info", params={"label": f"{server.item('cine')}.f00006", "tag": "user-xyz"}
        ).json()
        == {}
    )


def test_ohif_asks_for_bare_files(server: Server, tmp_path: Path) -> None:
    # By Series Instance UID, for NRRD that its reader does not inflate.
    series = server.get("/datastore/image/info", image=server.item("cine"))["SeriesInstanceUID"]
    params = {
        "result_extension": ".nrrd",
        "result_dtype": "uint8",
        "result_compress": False,
        "restore_label_idx": False,
    }
    form = {"params": (None, json.dumps(params))}
    response = server.ask("POST", "/infer/segmentation", params={"image": series, "output": "image"}, files=form)
    header, _, pixels = response.content.partition(b"\n\n")
    assert b"encoding: raw" in header and len(pixels) == FRAMES * HEIGHT * WIDTH
    params |= {"foreground": [[160, 120, 8]], "background": []}
    form = {"params": (None, json.dumps(params))}
    response = server.ask("POST", "/infer/interactive", params={"image": series, "output": "image"}, files=form)
    masks = np.frombuffer(response.content.partition(b"\n\n")[2], np.uint8).reshape(FRAMES, HEIGHT, WIDTH)
    assert set(np.flatnonzero(masks.any((1, 2)))) <= {8}


def test_ohif_submits_raw_bytes(server: Server, client) -> None:
    masks = np.zeros((FRAMES, HEIGHT, WIDTH), np.uint8)
    masks[24] = square(120, 140)
    series = server.get("/datastore/image/info", image=server.item("cine"))["SeriesInstanceUID"]
    form = {"params": (None, json.dumps({"label_info": [{"name": "lesion"}]})), "label": ("label.bin", masks.tobytes())}
    server.ask("PUT", "/datastore/label", params={"image": series}, files=form)
    assert np.array_equal(gray(Path(client.download_label(f"{server.item('cine')}.f00024", "final"))), masks[24])

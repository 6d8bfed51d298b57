"""MONAI Label's own Python client on a running server: what there is, inference and clicks."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import SimpleITK as sitk

pytest.importorskip("monailabel", reason="monailabel is not installed; `pip install sonodistill[label]`")

from app_case import CLASSES, Server
from client_case import FRAMES, HEIGHT, WIDTH, cine_frames, gray, mask_file, square, stack
from monailabel.client import MONAILabelClient

from sonodistill.frames import read

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

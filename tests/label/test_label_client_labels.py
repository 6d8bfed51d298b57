"""MONAI Label's clients on a running server: labels, what is next, sessions, and the requests of 3D Slicer and OHIF."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import SimpleITK as sitk
from PIL import Image

pytest.importorskip("monailabel", reason="monailabel is not installed; `pip install sonodistill[label]`")

from app_case import Server
from client_case import FRAMES, HEIGHT, WIDTH, gray, mask_file, square, stack
from monailabel.client.client import MONAILabelClientException
from requests_toolbelt.multipart import decoder

from sonodistill.frames import read

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

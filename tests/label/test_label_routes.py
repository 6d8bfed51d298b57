"""`sonodistill label`, and every route of ours on its server: what they answer when all is well."""

from __future__ import annotations

import base64
import io
import signal
import sys
import zipfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("monailabel", reason="monailabel is not installed; `pip install sonodistill[label]`")

from app_case import Server, make_models, make_studies, serve
from PIL import Image


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    folder = tmp_path_factory.mktemp("routes")
    studies, models = make_studies(folder), make_models(folder / "models")
    command = [str(Path(sys.executable).with_name("sonodistill")), "label", "--studies", str(studies)]
    command += ["--work", str(folder / "work"), "--port", "{port}", "--labels", "lesion,other", "--threads", "1"]
    command += [text for name, path in models.items() for text in (f"--{name}", str(path))]
    with serve(studies, work=folder / "work", command=command) as running:
        yield running


def png(mask) -> bytes:
    with io.BytesIO() as file:
        Image.fromarray(np.asarray(mask, np.uint8)).save(file, "PNG")
        return file.getvalue()


def mask_in(response) -> np.ndarray:
    return np.array(Image.open(io.BytesIO(response.content)))


def disc(value=1, at=(120, 160), radius=40) -> np.ndarray:
    rows, columns = np.mgrid[:240, :320]
    return ((rows - at[0]) ** 2 + (columns - at[1]) ** 2 < radius**2).astype(np.uint8) * value


def put(server, frame, mask, **query):
    return server.ask("PUT", f"/sonodistill/label/{frame}", params=query, data=png(mask), headers=PNG)


PNG = {"Content-Type": "image/png"}


def test_the_command_says_where_the_server_is_and_keeps_what_it_writes_to_itself(server):
    assert f"Annotation server: {server.url}/" in server.tail()
    assert (server.work / "labels.sqlite").stat().st_mode & 0o077 == 0
    assert (server.work / "logs" / "server.log").is_file()


def test_items_are_listed_in_pages_with_the_names_of_labels(server):
    whole = server.get("/sonodistill/items")
    assert whole["total"] == len(whole["items"]) == 5 and whole["labels"] == ["lesion", "other"]
    assert {(item["name"], item["frames"]) for item in whole["items"]} >= {("a/cine.dcm", 30), ("b/volume.nii.gz", 5)}
    pages = [server.get("/sonodistill/items", offset=at, limit=2)["items"] for at in (0, 2, 4)]
    assert [item for page in pages for item in page] == whole["items"]


def test_a_frame_is_a_gray_png_of_its_own_size(server):
    image = mask_in(server.ask("GET", f"/sonodistill/frame/{server.item('cine')}.f00003.png"))
    assert image.shape == (240, 320) and image.dtype == np.uint8 and image.std() > 10
    still = mask_in(server.ask("GET", f"/sonodistill/frame/{server.item('gray')}.png"))
    assert np.array_equal(still, image[20:220, 40:280])  # it was cut from that frame
    said = server.request("GET", f"/sonodistill/frame/{server.item('cine')}.png").json()
    assert "30 frames" in said["detail"]


def test_a_label_that_is_saved_is_read_back_exactly_with_who_and_what(server):
    frame = f"{server.item('cine')}.f00001"
    saved = put(server, frame, disc(2), annotator="anna", status="edited", classification="benign", confidence=0.5)
    assert saved.json()["annotator"] == "anna" and saved.json()["pixels"] == int((disc() > 0).sum())
    read = server.ask("GET", f"/sonodistill/label/{frame}")
    assert np.array_equal(mask_in(read), disc(2))
    told = {name: read.headers[f"X-SonoDistill-{name}"] for name in ("Status", "Annotator", "Classification")}
    assert told == {"Status": "edited", "Annotator": "anna", "Classification": "benign"}
    item = server.get(f"/sonodistill/items/{server.item('cine')}")
    assert [one["status"] for one in item["frames"][:3]] == ["", "edited", ""]


def test_a_palette_or_a_bit_mask_counts_by_its_numbers(server):
    frame = f"{server.item('cine')}.f00002"
    image = Image.fromarray(disc(2), "P")
    image.putpalette([0, 0, 0, 255, 0, 0, 0, 255, 0])
    with io.BytesIO() as file:
        image.save(file, "PNG")
        server.ask("PUT", f"/sonodistill/label/{frame}", files={"label": ("m.png", file.getvalue())})
    assert np.array_equal(mask_in(server.ask("GET", f"/sonodistill/label/{frame}")), disc(2))
    with io.BytesIO() as file:
        Image.fromarray(disc().astype(bool)).save(file, "PNG")
        server.ask("PUT", f"/sonodistill/label/{frame}", data=file.getvalue(), headers=PNG)
    assert np.array_equal(mask_in(server.ask("GET", f"/sonodistill/label/{frame}")), disc())


def test_a_newer_label_is_not_overwritten_by_who_has_not_seen_it(server):
    frame = f"{server.item('cine')}.f00004"
    first = put(server, frame, disc(), expect_revision=0).json()["revision"]
    second = put(server, frame, disc(2), expect_revision=first).json()["revision"]
    late = server.request(
        "PUT", f"/sonodistill/label/{frame}", params={"expect_revision": first}, data=png(disc()), headers=PNG
    )
    assert second > first and late.status_code == 409
    assert np.array_equal(mask_in(server.ask("GET", f"/sonodistill/label/{frame}")), disc(2))


def test_a_label_is_accepted_skipped_and_taken_back_and_its_history_stays(server):
    frame = f"{server.item('cine')}.f00005"
    path = f"/sonodistill/label/{frame}"
    put(server, frame, disc(), annotator="anna")
    accepted = server.ask("POST", f"{path}/status", json={"status": "accepted", "annotator": "ben"}).json()
    assert (accepted["annotator"], accepted["status"]) == ("ben", "accepted")
    assert np.array_equal(mask_in(server.ask("GET", f"{path}?annotator=ben")), disc())
    server.ask("POST", f"{path}/status", json={"status": "skipped", "annotator": "ben"})
    skipped = server.ask("GET", f"{path}?annotator=ben")
    assert skipped.status_code == 204 and skipped.headers["X-SonoDistill-Status"] == "skipped"
    server.ask("DELETE", f"{path}?annotator=ben")
    rows = server.get(f"{path}/rows")
    assert [row["annotator"] for row in rows["current"]] == ["anna"]
    assert [row["status"] for row in rows["history"]] == ["edited", "accepted", "skipped"]


def test_a_click_answers_a_mask_and_the_second_one_finds_the_features(server):
    frame = f"{server.item('cine')}.f00006"
    body = {"positive": [[160, 120]], "session": "s1"}
    first = server.ask("POST", f"/sonodistill/click/{frame}", json=body)
    mask = mask_in(first)
    assert mask.shape == (240, 320) and set(np.unique(mask)) <= {0, 1}
    assert first.headers["X-SonoDistill-Cached"] == "false"
    again = server.ask("POST", f"/sonodistill/click/{frame}", json=body)
    assert again.headers["X-SonoDistill-Cached"] == "true" and np.array_equal(mask_in(again), mask)
    assert 0 <= float(again.headers["X-SonoDistill-Confidence"]) <= 1
    box = server.ask("POST", f"/sonodistill/click/{frame}", json={"box": [10, 20, 200, 150], "negative": [[5, 5]]})
    assert mask_in(box).shape == (240, 320)


def test_the_mask_so_far_is_the_sessions_own_or_the_one_that_is_sent(server):
    frame = f"{server.item('cine')}.f00007"
    path, point = f"/sonodistill/click/{frame}", {"positive": [[160, 120]]}
    first = mask_in(server.ask("POST", path, json={**point, "session": "s2"}))
    by_session = mask_in(server.ask("POST", path, json={**point, "session": "s2", "use_mask": True}))
    sent = base64.b64encode(png(first)).decode()
    assert np.array_equal(mask_in(server.ask("POST", path, json={**point, "mask": sent})), by_session)
    other = mask_in(server.ask("POST", path, json={**point, "session": "s3", "use_mask": True}))
    assert np.array_equal(other, first)  # it has no mask of this frame
    assert server.request("POST", path, json={**point, "use_mask": True}).status_code == 422
    assert server.request("POST", path, json={**point, "mask": "!!"}).status_code == 422


@pytest.mark.parametrize(
    "body", [{}, {"positive": [[999, 1]]}, {"positive": [[1]]}, {"box": [5, 5, 1, 1]}, {"positive": "x"}]
)
def test_a_click_that_means_nothing_is_refused(server, body):
    said = server.request("POST", f"/sonodistill/click/{server.item('cine')}.f00006", json=body)
    assert said.status_code == 422 and said.json()["error"] == "InvalidPromptError"


def test_the_features_of_a_frame_can_be_made_before_the_first_click(server):
    frame = f"{server.item('cine')}.f00008"
    assert server.ask("POST", f"/sonodistill/embed/{frame}").json() == {"cached": False}
    click = server.ask("POST", f"/sonodistill/click/{frame}", json={"positive": [[1, 1]]})
    assert click.headers["X-SonoDistill-Cached"] == "true"


def test_propagation_saves_what_it_trusts_says_why_it_stopped_and_keeps_what_people_drew(server):
    item = server.item("cine")
    put(server, f"{item}.f00010", disc(), annotator="anna", status="accepted")
    put(server, f"{item}.f00012", disc(2), annotator="ben")
    body = {"count": 3, "least_confidence": 0.0}
    said = server.ask("POST", f"/sonodistill/propagate/{item}.f00010", json=body).json()
    assert [stop["label"] for stop in said["stopped"]] == ["lesion"] and said["stopped"][0]["why"]
    saved = {one["frame"]: one["saved"] for one in said["frames"]}
    assert saved.get(f"{item}.f00012", False) is False
    for frame, done in saved.items():
        rows = server.get(f"/sonodistill/label/{frame}/rows")["current"]
        assert ("propagated" in {row["status"] for row in rows}) == done
        if done:
            row = next(row for row in rows if row["status"] == "propagated")
            assert row["annotator"] == "model" and row["model"] == "interactive 1" and row["confidence"] is not None
    assert np.array_equal(mask_in(server.ask("GET", f"/sonodistill/label/{item}.f00012")), disc(2))
    for bad in ({"count": 0}, {"count": True}, {"count": 10**6}, {"backward": 1}, {"least_confidence": "x"}):
        assert server.request("POST", f"/sonodistill/propagate/{item}.f00010", json=bad).status_code == 422
    assert server.request("POST", f"/sonodistill/propagate/{item}.f00029", json={}).status_code == 404


def test_what_to_label_next_is_new_to_this_annotator_and_leaves_out_what_is_excluded(server):
    server.wait(lambda: server.get("/sonodistill/progress")["embedding"]["embedded"] > 0)
    first = server.ask("POST", "/sonodistill/next", json={"n": 3, "annotator": "carol"}).json()["frames"]
    assert len({one["frame"] for one in first}) == 3 and all(one["why"] for one in first)
    left_out = [one["frame"] for one in first]
    more = server.ask("POST", "/sonodistill/next", json={"n": 3, "annotator": "dave", "exclude": left_out}).json()
    assert not {one["frame"] for one in more["frames"]} & set(left_out)
    for bad in (
        {"n": 0},
        {"n": "1"},
        {"exclude": "x"},
        {"exclude": ["nothing"]},
        {"strategy": "../x"},
        {"annotator": 1},
    ):
        assert server.request("POST", "/sonodistill/next", json=bad).status_code in (400, 404, 422)


def test_annotators_are_compared_on_the_frames_that_both_accepted(server):
    frame = f"{server.item('cine')}.f00015"
    put(server, frame, disc(), annotator="anna", status="accepted", classification="benign")
    put(server, frame, disc(radius=30), annotator="ben", status="accepted", classification="benign")
    pairs = server.get("/sonodistill/agreement")["pairs"]
    pair = next(one for one in pairs if one["annotators"] == ["anna", "ben"])
    a, b = disc() > 0, disc(radius=30) > 0
    assert pair["dice"]["lesion"]["mean"] == pytest.approx(2 * (a & b).sum() / (a.sum() + b.sum()))


@pytest.mark.parametrize("form", ["png", "nifti", "coco", "seg"])
def test_labels_leave_as_a_zip_and_come_back_the_same(server, form):
    put(server, f"{server.item('cine')}.f00016", disc(), annotator="anna", status="accepted")
    response = server.ask("POST", "/sonodistill/export", json={"form": form, "annotator": "anna"})
    assert response.headers["Content-Type"] == "application/zip"
    archive = zipfile.ZipFile(io.BytesIO(response.content))
    assert archive.testzip() is None and len(archive.namelist()) > 1
    said = server.ask("POST", "/sonodistill/import", files={"file": ("x.zip", response.content)}).json()
    assert said["written"] == [] and said["skipped"] == [] and len(said["unchanged"]) >= 1
    other = server.ask(
        "POST", "/sonodistill/import", files={"file": ("x.zip", response.content)}, data={"annotator": f"via-{form}"}
    ).json()
    assert len(other["written"]) == len(said["unchanged"])
    path = f"/sonodistill/label/{server.item('cine')}.f00016?annotator=via-{form}"
    assert np.array_equal(mask_in(server.ask("GET", path)), disc())
    server.wait(lambda: not list(server.work.glob(".export-*")), 10)


def test_models_have_versions_that_are_promoted_and_rolled_back(server):
    models = server.get("/sonodistill/models")
    assert {name: model["current"] for name, model in models.items()} == dict.fromkeys(models, 1)
    assert server.ask("POST", "/sonodistill/models/segmentation/promote", json={"number": 1}).json()["current"] == 1
    said = server.request("POST", "/sonodistill/models/segmentation/rollback")
    assert said.status_code == 409 and said.json()["error"] == "ConflictError"
    assert server.request("POST", "/sonodistill/models/segmentation/promote", json={"number": 9}).status_code == 404
    assert server.request("POST", "/sonodistill/models/segmentation/promote", json={"number": "1"}).status_code == 422
    weights = server.ask("GET", "/model/segmentation")
    assert weights.content[8:9] == b"{" and "segmentation.safetensors" in weights.headers["Content-Disposition"]


def test_a_training_is_asked_for_with_settings_that_are_checked(server):
    for bad in ({"max_epochs": 0}, {"max_epochs": "x"}, {"bundle_path": "x"}, {"batch_size": True}, {"model": 1}):
        assert server.request("POST", "/sonodistill/train", json=bad).status_code == 422
    for bad in ({"model": "embedding"}, {"model": "nothing"}):
        assert server.request("POST", "/sonodistill/train", json=bad).status_code == 404
    assert {one["state"] for one in server.get("/sonodistill/train").values()} == {"idle"}
    assert server.request("DELETE", "/sonodistill/train").status_code == 409
    assert server.request("POST", "/train/segmentation?run_sync=true", json={}).status_code == 400


def test_the_page_of_the_server_lists_its_routes_and_needs_no_script(server):
    page = server.ask("GET", "/").text
    assert "/sonodistill/click/{id}" in page and "<script" not in page
    assert "/sonodistill/items" in server.get("/openapi.json")["paths"]


def test_what_the_command_line_exports_is_what_the_server_has(server, tmp_path):
    import subprocess

    put(server, f"{server.item('cine')}.f00017", disc(), annotator="anna", status="accepted")
    out, command = tmp_path / "out", str(Path(sys.executable).with_name("sonodistill"))
    line = [command, "label", "export", "--studies", str(server.studies), "--work", str(server.work)]
    done = subprocess.run([*line, "--out", str(out)], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    assert (out / "masks" / f"{server.item('cine')}.f00017.png").is_file()


def test_zz_ctrl_c_ends_the_server_in_order(server):
    server.process.send_signal(signal.SIGINT)
    assert server.process.wait(60) == 0, server.tail()
    assert "Traceback" not in server.tail() + (server.work / "logs" / "server.log").read_text()

"""What a server refuses of labels and files, and what a client may not do at all."""

from __future__ import annotations

import gzip
import io
import pickle
import struct
import zipfile

import numpy as np
import pytest

pytest.importorskip("monailabel", reason="monailabel is not installed; `pip install sonodistill[label]`")

from PIL import Image
from security_case import frame, noise, nothing_saved, png, refused, refused_request

# Labels and files


@pytest.mark.parametrize("name", ["label.nii.gz", "label.nrrd", "label.png", "label.bin", "label", "label.html"])
def test_an_error_page_is_no_label(server, name):
    page = b"<html><body>502 Bad Gateway</body></html>"
    with nothing_saved(server):
        for image in (frame(server), server.item("cine"), server.item("volume")):
            refused_request(server, "PUT", f"/datastore/label?image={image}", files={"label": (name, page)})
        refused_request(
            server, "PUT", f"/sonodistill/label/{frame(server)}", files={"label": (name, page)}, among=[422]
        )


def test_a_mask_of_another_size_type_or_number_is_refused(server):
    headers = {"Content-Type": "image/png"}
    with io.BytesIO() as file:
        Image.fromarray(np.zeros((240, 320, 3), np.uint8)).save(file, "PNG")
        colour = file.getvalue()
    with nothing_saved(server):
        for mask in (png((10, 10)), png(value=9), colour, noise()[:2000], b"", pickle.dumps({}), b"\x89PNG\r\n\x1a\n"):
            for path in (f"/sonodistill/label/{frame(server)}", f"/sonodistill/label/{server.item('still')}"):
                refused_request(server, "PUT", path, among=[422], data=mask, headers=headers)


def test_a_png_that_unpacks_to_much_more_is_refused_unread(server):
    with io.BytesIO() as file:
        Image.new("1", (9000, 9000)).save(file, "PNG")
        bomb = file.getvalue()
    said = refused_request(server, "PUT", f"/sonodistill/label/{frame(server)}", files={"label": ("m.png", bomb)})
    assert "240 x 320" in said["detail"]


def test_a_volume_of_labels_that_says_it_is_huge_is_refused_unread(server):
    header = bytearray(352)
    struct.pack_into("<i8h", header, 0, 348, 0, 0, 0, 0, 0, 0, 0, 0)
    struct.pack_into("<8h", header, 40, 3, 32_000, 32_000, 200, 1, 1, 1, 1)
    struct.pack_into("<2h", header, 70, 2, 8)  # uint8
    struct.pack_into("<8f", header, 76, 1, 1, 1, 1, 1, 1, 1, 1)
    struct.pack_into("<f", header, 108, 352.0)
    header[344:348] = b"n+1\0"
    packed = gzip.compress(bytes(header) + bytes(1 << 20))
    nrrd = b"NRRD0004\ntype: uint8\ndimension: 3\nsizes: 32000 32000 200\nencoding: gzip\n\n" + gzip.compress(bytes(99))
    with nothing_saved(server):
        for image in (server.item("cine"), server.item("volume"), frame(server)):
            for name, content in (("l.nii.gz", packed), ("l.nrrd", nrrd)):
                refused_request(server, "PUT", f"/datastore/label?image={image}", files={"label": (name, content)})


def test_only_people_accept_and_the_model_signs_nothing(server):
    path, headers = f"/sonodistill/label/{frame(server)}", {"Content-Type": "image/png"}
    with nothing_saved(server):
        refused_request(server, "PUT", f"{path}?annotator=model&status=accepted", data=png(), headers=headers)
        refused_request(server, "POST", f"{path}/status", json={"status": "predicted"}, among=[422])
        refused_request(server, "POST", f"{path}/status", json={"status": ["accepted"]}, among=[422])
        refused_request(server, "PUT", f"{path}?status=final", data=png(), headers=headers, among=[422])


@pytest.mark.parametrize("name", ["x.pt", "x.pth", "x.pkl", "x.exe", "x", "../../x", "x.png\0.sh", "x." + "y" * 300])
def test_an_upload_under_a_strange_name_is_refused_or_put_where_uploads_are(server, name):
    with nothing_saved(server):
        for method, path, part in (
            ("PUT", "/datastore/image", "file"),
            ("PUT", "/datastore/image?image=fine", "file"),
            ("PUT", "/session/", "files"),
            ("POST", "/infer/segmentation", "file"),
        ):
            refused_request(server, method, path, files={part: (name, pickle.dumps({"a": 1}))})


def test_an_upload_that_is_no_image_is_refused(server):
    with nothing_saved(server):
        for name in ("x.png", "x.dcm", "x.nii.gz", "x.mp4"):
            for content in (b"", b"<html>", pickle.dumps({})):
                refused_request(server, "PUT", "/datastore/image", files={"file": (name, content)})


def test_an_archive_of_labels_that_leaves_its_folder_is_refused(server):
    for name in ("../../evil.json", "/tmp/evil.json", "a/../../evil.json", "..\\evil.json"):
        with io.BytesIO() as file:
            with zipfile.ZipFile(file, "w") as archive:
                archive.writestr(name, "{}")
            packed = file.getvalue()
        with nothing_saved(server):
            refused_request(server, "POST", "/sonodistill/import", files={"file": ("x.zip", packed)})
    assert not list(server.work.glob(".import*")) and not list(server.work.glob("sonodistill-*"))


# What a client may not do at all


@pytest.mark.parametrize(
    "method, path",
    [
        ("POST", "/reload"),
        ("GET", "/reload"),
        ("GET", "/logs/"),
        ("GET", "/logs/gpu"),
        ("GET", "/docs"),
        ("PUT", "/model/segmentation"),
        ("DELETE", "/model/segmentation"),
        ("POST", "/infer/wsi/segmentation"),
        ("POST", "/infer/wsi_v2/segmentation"),
        ("GET", "/datastore/dataset"),
        ("GET", "/datastore/?output=train"),
        ("PUT", "/session/?uncompress=true"),
    ],
)
def test_what_a_stock_server_would_do_for_anybody_is_refused(server, method, path):
    more = {"files": {"files": ("x.zip", b"x")}} if "session" in path else {}
    assert refused_request(server, method, path, among=[403], **more)["remedy"]


def test_the_proxy_leads_nowhere_but_to_a_dicomweb_server(server):
    for method in ("GET", "POST", "PUT", "DELETE"):
        for path in ("/proxy/dicom/wado/studies", "/proxy/dicom/stow/studies", "/proxy/dicom/http://127.0.0.1:22/"):
            refused_request(server, method, path, among=[403, 404, 405])


@pytest.mark.parametrize(
    "params",
    [
        {"image": "/etc/passwd"},
        {"model": "other"},
        {"label": "/etc/passwd"},
        {"session": {"image": "/etc/passwd"}},
        {"model_filename": "x.pt"},
        {"bundle_path": "x"},
        {"result_extension": ".nii/../../x"},
        {"result_extension": ".pkl"},
        {"result_dtype": "object"},
        {"device": "cuda:0; rm"},
        {"device": 1},
        {"anything": "/etc/passwd"},
        {"anything": "..\\x"},
        {"../x": 1},
    ],
    ids=str,
)
def test_a_parameter_that_would_choose_a_file_or_a_program_is_refused(server, params):
    response = server.infer("segmentation", frame(server), params)
    refused(server, response.status_code, {k.lower(): v for k, v in response.headers.items()}, response.content, [422])


def test_sessions_are_limited_in_number_and_say_nothing_of_where_they_lie(server):
    made = []
    try:
        for _ in range(40):
            response = server.request("PUT", "/session/", files={"files": ("x.png", png())})
            if response.status_code != 200:
                break
            assert str(server.work) not in response.text
            made.append(response.json()["session_id"])
        assert 0 < len(made) < 40 and response.status_code == 429
        assert str(server.work) not in server.ask("GET", f"/session/{made[0]}").text
    finally:
        for id in made:
            server.ask("DELETE", f"/session/{id}")
    assert server.request("PUT", "/session/", files={"files": ("x.png", png())}).status_code == 200


def test_no_list_and_no_error_names_a_folder_of_the_server(server):
    for path in (
        "/info/",
        "/datastore/?output=all",
        "/datastore/",
        f"/datastore/image/info?image={server.item('cine')}",
        "/sonodistill/items",
        "/sonodistill/models",
        "/sonodistill/progress",
        "/sonodistill/train",
        "/openapi.json",
        "/model/info/segmentation",
    ):
        text = server.ask("GET", path).text
        assert str(server.work.parent) not in text and "site-packages" not in text


def test_the_log_of_all_this_holds_no_trace(server):
    assert "Traceback" not in server.log.read_text(errors="replace")

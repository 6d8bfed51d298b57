"""The app on a real Orthanc: a cine is listed, fetched, inferred, labelled and sent back as DICOM Segmentation."""

from __future__ import annotations

import io
import zipfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("monailabel", reason="monailabel is not installed; `pip install sonodistill[label]`")

import SimpleITK as sitk
from orthanc import Orthanc
from pacs_case import Pacs, pacs
from PIL import Image
from pydicom import dcmread
from web_case import renewed, write

from sonodistill.annotate.exchange import import_labels
from sonodistill.annotate.ids import FrameId
from sonodistill.annotate.labels.store import LabelStore
from sonodistill.annotate.model import Status
from sonodistill.annotate.remote.catalogue import WebCatalogue
from sonodistill.frames import read

pytestmark = pytest.mark.timeout(600)
LABELLED = (2, 11, 29)


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Pacs]:
    with pacs(tmp_path_factory.mktemp("orthanc")) as started:
        yield started


def save(running: Pacs, frame: str, mask: np.ndarray, **query: str) -> None:
    Image.fromarray(mask).save(png := io.BytesIO(), "PNG")
    kind = {"Content-Type": "image/png"}
    running.server.ask("PUT", f"/sonodistill/label/{frame}", params=query, data=png.getvalue(), headers=kind)


def drawn(index: int) -> np.ndarray:
    """(240, 320): what somebody draws on a frame."""
    mask = np.zeros((240, 320), np.uint8)
    mask[40 + index : 90, 60 : 200 - index] = 1
    return mask


def seg_series(orthanc: Orthanc) -> list[str]:
    """Orthanc's ids of its instances of segmentations."""
    query = {"Level": "Instance", "Query": {"Modality": "SEG"}}
    found: list[str] = orthanc.post("/tools/find", query)
    return found


def test_the_instances_are_listed_and_nothing_of_the_patient_is(running: Pacs) -> None:
    items = {item["id"]: item for item in running.server.get("/sonodistill/items")["items"]}
    assert set(items) == set(running.files)
    assert items[running.cine.SOPInstanceUID]["frames"] == 30
    assert items[running.cine.SOPInstanceUID]["series"] == running.cine.SeriesInstanceUID
    told = running.server.ask("GET", "/datastore/?output=all").text + running.server.ask("GET", "/info/").text
    assert running.cine.SOPInstanceUID in told and "P1" not in told and "Ultrasound^" not in told


def test_the_cine_and_its_frames_are_downloaded_as_clients_do(running: Pacs, tmp_path: Path) -> None:
    frames = list(read(running.files[running.cine.SOPInstanceUID]))
    for image in (running.cine.SOPInstanceUID, running.cine.SeriesInstanceUID):  # stock OHIF names series
        path = tmp_path / "cine.nrrd"
        path.write_bytes(running.server.ask("GET", "/datastore/image", params={"image": image}).content)
        assert np.array_equal(
            sitk.GetArrayFromImage(sitk.ReadImage(str(path))), np.stack([one.image for one in frames])
        )
    one = running.server.ask("GET", "/datastore/image", params={"image": f"{running.cine.SOPInstanceUID}.f00017"})
    with Image.open(io.BytesIO(one.content)) as image:
        assert np.array_equal(np.array(image), frames[17].image)


def test_one_frame_is_inferred(running: Pacs) -> None:
    name = f"{running.cine.SOPInstanceUID}.f00005"
    answer = running.server.request("POST", "/infer/segmentation?output=image", params={"image": name})
    assert answer.status_code == 200, answer.text[:500]
    mask = np.array(Image.open(io.BytesIO(answer.content)))
    assert mask.shape == (240, 320) and 0 < mask.sum() < mask.size
    assert running.server.get(f"/sonodistill/items/{running.cine.SOPInstanceUID}")["frames"][5]["status"] == ""


def test_labels_of_a_cine_go_to_orthanc_as_a_segmentation_and_come_back_the_same(running: Pacs, tmp_path: Path) -> None:
    uid = running.cine.SOPInstanceUID
    for index in LABELLED:
        name = f"{uid}.f{index:05d}"
        save(running, name, drawn(index), annotator="ann")
        running.server.ask("POST", f"/sonodistill/label/{name}/status", json={"status": "accepted", "annotator": "ann"})
    answer = running.server.ask("POST", "/sonodistill/export", json={"form": "seg", "store": True})
    assert answer.headers["X-SonoDistill-Stored"] == "1"
    with zipfile.ZipFile(io.BytesIO(answer.content)) as packed:
        (member,) = [member for member in packed.namelist() if member.endswith(".dcm")]
        exported = tmp_path / "exported.dcm"
        exported.write_bytes(packed.read(member))

    token = running.folder / "token"
    catalogue = WebCatalogue(
        running.orthanc.web, tmp_path / "instances", token_file=token, user=running.orthanc.auth[0]
    )
    catalogue.store([exported])  # the PACS has it already: it stays one
    (stored,) = seg_series(running.orthanc)
    fetched = tmp_path / "fetched.dcm"
    fetched.write_bytes(running.orthanc.file(stored))
    ds = dcmread(fetched)
    assert ds.SOPInstanceUID == dcmread(exported).SOPInstanceUID
    assert ds.StudyInstanceUID == running.study and ds.SOPClassUID.name == "Segmentation Storage"
    (series,) = ds.ReferencedSeriesSequence
    assert series.SeriesInstanceUID == running.cine.SeriesInstanceUID
    assert [each.ReferencedSOPInstanceUID for each in series.ReferencedInstanceSequence] == [uid]
    referred = [
        (source.ReferencedSOPInstanceUID, int(source.ReferencedFrameNumber))
        for group in ds.PerFrameFunctionalGroupsSequence
        for derivation in group.DerivationImageSequence
        for source in derivation.SourceImageSequence
    ]
    assert referred == [(uid, index + 1) for index in LABELLED]
    assert np.array_equal(ds.pixel_array.astype(np.uint8), np.stack([drawn(index) for index in LABELLED]))

    fresh = LabelStore(tmp_path / "labels.sqlite", ("lesion",), ("normal", "benign", "malignant"))
    report = import_labels(catalogue, fresh, fetched, annotator=None)
    assert len(report.written) == len(LABELLED) and not report.skipped
    for index in LABELLED:
        label = fresh.get(FrameId(uid, index))
        assert label is not None and label.mask is not None
        assert np.array_equal(label.mask, drawn(index))
        assert (label.row.status, label.row.annotator) == (Status.ACCEPTED, "ann")
    assert len(fresh.rows()) == len(LABELLED)
    fresh.close()
    catalogue.close()


def test_what_arrives_in_orthanc_is_listed_within_seconds_but_no_segmentation(running: Pacs) -> None:
    ds = renewed("palette_color", PatientID="P2")
    running.orthanc.upload(write(ds, running.folder / "late.dcm"))

    def listed() -> bool:
        running.server.ask("GET", "/proxy/dicom/qido/studies")  # as the viewer does for its list
        return any(item["id"] == ds.SOPInstanceUID for item in running.server.get("/sonodistill/items")["items"])

    running.server.wait(listed, 60)
    items = running.server.get("/sonodistill/items")["items"]
    assert {item["id"] for item in items} == {*running.files, ds.SOPInstanceUID}
    assert running.server.ask("GET", f"/sonodistill/frame/{ds.SOPInstanceUID}.png").content.startswith(b"\x89PNG")


def test_a_pacs_that_went_away_is_told_and_what_was_fetched_is_still_annotated(running: Pacs) -> None:
    items, unread = running.server.get("/sonodistill/items")["items"], running.stack[0].SOPInstanceUID
    running.orthanc.post("/tools/shutdown")
    running.server.wait(lambda: running.server.request("GET", "/proxy/dicom/qido/studies").status_code == 502, 60)
    save(running, f"{running.cine.SOPInstanceUID}.f00020", drawn(20))
    assert running.server.get("/sonodistill/items")["items"] == items
    answer = running.server.request("GET", f"/proxy/dicom/wado/studies/{running.study}/metadata")
    assert answer.status_code == 502 and answer.json()["error"] == "UnreachableError"
    answer = running.server.request("GET", f"/sonodistill/frame/{unread}.png")
    assert answer.status_code in (200, 502)  # it may have been embedded, and fetched for that

"""Items of a DICOMweb server: what a real Orthanc keeps, fetched when it is needed; what it says is checked."""

from __future__ import annotations

import json
import os
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from orthanc import Orthanc, orthanc
from pydicom import Dataset, dcmread, dcmwrite
from pydicom.uid import generate_uid
from web_case import Handler, lying, renewed, url_of, write

from sonodistill.annotate.errors import InvalidIdError, UnknownIdError, UnreachableError
from sonodistill.annotate.ids import FrameId
from sonodistill.annotate.remote.cache import FileCache
from sonodistill.annotate.remote.catalogue import WebCatalogue
from sonodistill.dicom.errors import ServiceConfigError
from sonodistill.dicom.service.fetch import RefusedInstanceError
from sonodistill.errors import SonoDistillError
from sonodistill.frames import read

OPEN = {"AuthenticationEnabled": False}


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Orthanc]:
    with orthanc(tmp_path_factory.mktemp("pacs"), settings=OPEN) as server:
        yield server


@pytest.fixture
def pacs(running: Orthanc) -> Orthanc:
    """An Orthanc that holds nothing."""
    running.delete_all()
    return running


def study(folder: Path, names: list[str], *, one_series: bool = False, **attributes: object) -> list[Path]:
    """Real files as a new study of one patient; their instance numbers count down, so that order is told from UIDs."""
    uid, series = generate_uid(), generate_uid()
    paths = []
    for number, name in enumerate(names):
        ds = renewed(name, StudyInstanceUID=uid, PatientID="P1", InstanceNumber=len(names) - number, **attributes)
        if one_series:
            ds.SeriesInstanceUID = series
        paths.append(write(ds, folder / f"{name}-{number}.dcm"))
    return paths


def of(path: Path) -> Dataset:
    return dcmread(path, stop_before_pixels=True)


def other_than_ultrasound(folder: Path) -> Path:
    return write(renewed("rgb_color", Modality="CT", StudyInstanceUID=generate_uid()), folder / "ct.dcm")


def catalogue(pacs: Orthanc | str, folder: Path, **more: Any) -> WebCatalogue:
    url = pacs if isinstance(pacs, str) else pacs.web
    return WebCatalogue(url, folder / "instances", **{"pause": 0.0, **more})


def test_the_ultrasound_that_orthanc_keeps_is_listed_fetched_when_read_and_sent_back(
    tmp_path: Path, pacs: Orthanc
) -> None:
    cine, still, many = study(tmp_path, ["ybr_color", "rgb_color", "OBXXXX1A_2frame"])
    for path in (cine, still, many, other_than_ultrasound(tmp_path)):
        pacs.upload(path)
    shown = catalogue(pacs, tmp_path)
    items = {item.id: item for item in shown.items()}
    assert set(items) == {of(path).SOPInstanceUID for path in (cine, still, many)}
    assert [items[of(path).SOPInstanceUID].frames for path in (cine, still, many)] == [30, 1, 2]
    assert {item.kind for item in items.values()} == {"dicom"}
    assert len({item.group for item in items.values()}) == 1 and "P1" not in str(items)
    assert not list((tmp_path / "instances").glob("*.dcm"))  # nothing is fetched for a list

    item = items[of(cine).SOPInstanceUID]
    frames = list(shown.read(item, [3, 17]))
    assert [frame.index for frame in frames] == [3, 17]
    for ours, theirs in zip(frames, read(cine, only=[3, 17]), strict=True):
        assert np.array_equal(ours.image, theirs.image)
        assert (ours.time_ms, ours.calibration) == (theirs.time_ms, theirs.calibration)
    assert list((tmp_path / "instances").glob("*.dcm")) == [item.path]
    assert shown.file(items[of(still).SOPInstanceUID]).read_bytes() == still.read_bytes()

    ds = renewed("rgb_color", StudyInstanceUID=of(cine).StudyInstanceUID)
    shown.store([write(ds, tmp_path / "result.dcm")])
    assert ds.SOPInstanceUID in pacs.sop_uids()
    shown.close()


def test_ids_are_instances_frames_and_series_of_one(tmp_path: Path, pacs: Orthanc) -> None:
    (cine,) = study(tmp_path, ["ybr_color"])
    stills = study(tmp_path, ["rgb_color", "palette_color", "US1_UNCR"], one_series=True)
    for path in (cine, *stills):
        pacs.upload(path)
    shown = catalogue(pacs, tmp_path)
    uid, series = of(cine).SOPInstanceUID, of(cine).SeriesInstanceUID
    assert shown.locate(uid) == shown.locate(series) == (shown.item(uid), None)
    assert shown.locate(f"{uid}.f00029") == shown.locate(f"{series}.f00029") == (shown.item(uid), 29)
    assert shown.frame(FrameId(uid, 29)) is shown.frame(FrameId(uid, 29))
    assert shown.study(shown.item(uid)) == of(cine).StudyInstanceUID and shown.has_study(of(cine).StudyInstanceUID)
    still = of(stills[0]).SOPInstanceUID
    assert shown.locate(f"{still}.f00000") == (shown.item(still), None)
    assert [item.id for item in shown.series(of(stills[0]).SeriesInstanceUID)] == [
        of(path).SOPInstanceUID for path in reversed(stills)
    ]
    for text in (f"{uid}.f00030", f"{still}.f00001", generate_uid(), of(stills[0]).SeriesInstanceUID):
        with pytest.raises(UnknownIdError):
            shown.locate(text)
    for text in ("../etc/passwd", "1..2", "1/2", "", "a" * 200):
        with pytest.raises(InvalidIdError):
            shown.locate(text)
        with pytest.raises(InvalidIdError):
            shown.series(text)
    shown.close()


def test_what_comes_and_goes_on_the_server_does_so_in_the_list(tmp_path: Path, pacs: Orthanc) -> None:
    first, second = study(tmp_path, ["rgb_color", "palette_color"])
    pacs.upload(first)
    shown = catalogue(pacs, tmp_path)
    assert len(shown.items()) == 1 and shown.refresh() is False
    stored = pacs.upload(second)
    assert len(shown.items()) == 1
    assert shown.refresh() is True and len(shown.items()) == 2
    pacs.call("DELETE", f"/instances/{stored}")
    assert shown.refresh() is True and [item.id for item in shown.items()] == [of(first).SOPInstanceUID]
    patient = shown.items()[0]
    shown.close()
    again = catalogue(pacs, tmp_path, pause=3600)
    assert again.items() == [patient]  # the group, too
    pacs.upload(second)
    assert again.refresh() is False  # it was asked a moment ago
    again.close()


def test_who_asks_all_the_time_is_answered_anew_after_the_pause(tmp_path: Path, pacs: Orthanc) -> None:
    first, second = study(tmp_path, ["rgb_color", "palette_color"])
    pacs.upload(first)
    shown = catalogue(pacs, tmp_path, pause=0.5)
    assert len(shown.items()) == 1
    pacs.upload(second)
    deadline = time.monotonic() + 30
    while not shown.refresh() and time.monotonic() < deadline:
        time.sleep(0.05)
    assert len(shown.items()) == 2
    shown.close()


def test_a_server_that_is_down_is_named_and_its_list_stays(tmp_path: Path) -> None:
    (path,) = study(tmp_path, ["rgb_color"])
    with orthanc(tmp_path, settings=OPEN) as pacs:
        pacs.upload(path)
        shown = catalogue(pacs, tmp_path)
        items = shown.items()
    with pytest.raises(UnreachableError, match="no answer"):
        shown.refresh()
    assert shown.items() == items
    with pytest.raises(UnreachableError, match="no answer"):
        shown.file(items[0])
    with pytest.raises(UnreachableError, match="no answer"):
        shown.store([path])
    assert not [entry for entry in (tmp_path / "instances").iterdir() if ".dcm" in entry.name]
    shown.close()
    later = catalogue(pacs, tmp_path)  # a start while it is down
    assert later.items() == items
    later.close()
    with pytest.raises(UnreachableError):
        catalogue(pacs, tmp_path / "elsewhere")
    assert b"P1" not in b"".join(each.read_bytes() for each in (tmp_path / "instances").iterdir())


def test_credentials_are_sent_but_not_in_the_clear_to_another_machine(tmp_path: Path) -> None:
    (path,) = study(tmp_path, ["rgb_color"])
    token = tmp_path / "token"
    with orthanc(tmp_path) as pacs:
        pacs.upload(path)
        token.write_text("wrong")
        with pytest.raises(UnreachableError, match="401"):
            catalogue(pacs, tmp_path, token_file=token, user=pacs.auth[0])
        token.write_text(pacs.auth[1])
        shown = catalogue(pacs, tmp_path, token_file=token, user=pacs.auth[0])
        assert shown.frame(FrameId(shown.items()[0].id, 0)).image.shape == (240, 320)
        shown.store([path])
        shown.close()
    with pytest.raises(ServiceConfigError, match="https"):
        catalogue("http://pacs.example/dicom-web", tmp_path, token_file=token)


def test_the_copies_stay_within_their_bound_and_the_oldest_read_goes_first(tmp_path: Path, pacs: Orthanc) -> None:
    paths = study(tmp_path, ["rgb_color"] * 4)
    for path in paths:
        pacs.upload(path)
    size = paths[0].stat().st_size
    shown = catalogue(pacs, tmp_path, cache_bytes=int(3.4 * size))
    one, two, three, four = shown.items()
    for age, item in enumerate((three, two, one)):
        shown.file(item)
        os.utime(item.path, (1e9 + age, 1e9 + age))
    shown.file(three)
    shown.file(four)
    assert {path.name for path in (tmp_path / "instances").glob("*.dcm")} == {
        item.path.name for item in (one, three, four)
    }
    assert shown.frame(FrameId(two.id, 0)).image.shape == (240, 320)  # it comes again
    shown.close()


def test_an_instance_is_fetched_once_for_all_who_want_it(tmp_path: Path) -> None:
    cache, fetched, begun, go = FileCache(tmp_path / "copies", 100), [], threading.Event(), threading.Event()

    def fetch(path: Path) -> None:
        fetched.append(path)
        begun.set()
        assert go.wait(10)
        path.write_bytes(b"x" * 80)

    def want() -> None:
        with cache.held("1.2", fetch) as path:
            found.append(path.read_bytes())

    found: list[bytes] = []
    threads = [threading.Thread(target=want) for _ in range(4)]
    for thread in threads:
        thread.start()
    assert begun.wait(10)
    go.set()
    for thread in threads:
        thread.join(10)
    assert len(fetched) == 1 and found == [b"x" * 80] * 4

    def fail(path: Path) -> None:
        path.write_bytes(b"half")
        raise OSError("gone")

    with pytest.raises(OSError, match="gone"), cache.held("1.3", fail):
        pass
    with cache.held("1.2", fail), cache.held("1.4", fetch) as path:  # over the bound, but both are in use
        assert path.exists() and cache.path("1.2").exists()
    assert sorted(entry.name for entry in cache.folder.iterdir()) == ["1.2.dcm", "1.4.dcm"]


def item_of(**tags: object) -> dict[str, object]:
    return {tag.removeprefix("t"): {"vr": "UI", "Value": [value]} for tag, value in tags.items()}


def found_by(answers: dict[str, list[dict[str, object]]]) -> Any:
    """A server that answers searches: {path: items}; it knows no paging, and gives the same page again."""

    def answer(handler: Handler) -> None:
        items = answers.get(handler.path.split("?")[0].removeprefix("/web"))
        handler.reply(404 if items is None else 200, json.dumps(items or []).encode())

    return answer


def test_a_server_that_lies_gets_no_path_no_name_and_no_endless_list(tmp_path: Path) -> None:
    study, series, sop = "1.2.3", "1.2.3.4", "1.2.3.4.5"
    still, clip = "1.2.840.10008.5.1.4.1.1.6.1", "1.2.840.10008.5.1.4.1.1.3.1"
    at = f"/studies/{study}/series"
    listed = [
        item_of(t00080018="../../escaped", t00080016=still),
        item_of(t00080018="Doe^Jane", t00080016=still),
        item_of(t00080018="1.2.9", t00080016="1.2.840.10008.5.1.4.1.1.2"),
        item_of(t00080018=sop, t00080016=still),
        item_of(t00080018="1.2.7", t00080016=clip, t00280008="99999999"),
        item_of(t00080018="1.2.8", t00080016=clip),
    ]
    answers = {
        "/studies": [item_of(t0020000D="../x"), item_of(t0020000D=study, t00100020=7)] * 60,
        at: [item_of(t0020000E=series, t00080060="US"), item_of(t0020000E="no", t00080060="US")],
        f"{at}/{series}/instances": listed,
        f"{at}/{series}/instances/1.2.8/metadata": [item_of(t00280008=12)],
    }
    with lying(found_by(answers)) as server:
        shown = catalogue(f"{url_of(server)}/web", tmp_path)
        assert {item.id: item.frames for item in shown.items()} == {sop: 1, "1.2.8": 12}
        assert "Doe" not in str(shown.skipped()) and len(shown.skipped()) == 5
        with pytest.raises(SonoDistillError):
            shown.file(shown.item(sop))
        shown.close()
        assert len(server.paths) < 20


def test_a_study_that_cannot_be_listed_hides_no_other(tmp_path: Path) -> None:
    still = "1.2.840.10008.5.1.4.1.1.6.1"
    answers = {
        "/studies": [item_of(t0020000D="1.2.4"), item_of(t0020000D="1.2.3")],
        "/studies/1.2.3/series": [item_of(t0020000E="1.2.3.4", t00080060="US")],
        "/studies/1.2.3/series/1.2.3.4/instances": [item_of(t00080018="1.2.3.4.5", t00080016=still)],
    }
    with lying(found_by(answers)) as server:
        shown = catalogue(f"{url_of(server)}/web", tmp_path)
        assert [item.id for item in shown.items()] == ["1.2.3.4.5"]
        assert shown.skipped() == [("1.2.4", "127.0.0.1 answered a search with 404")]
        shown.close()


@pytest.mark.parametrize("body", [b"[" * 10_000, b"<html>", b"\xff\xfe"])
def test_an_answer_that_is_no_list_is_an_error_of_the_server(tmp_path: Path, body: bytes) -> None:
    with lying(lambda handler: handler.reply(200, body)) as server, pytest.raises(UnreachableError, match="no JSON"):
        catalogue(url_of(server), tmp_path)


def test_asking_for_the_list_holds_up_nobody(tmp_path: Path) -> None:
    hold, asked = threading.Event(), threading.Event()
    answers = found_by({"/studies": []})

    def answer(handler: Handler) -> None:
        if len(handler.server.paths) > 1:  # type: ignore[attr-defined]
            asked.set()
            hold.wait(20)
        answers(handler)

    with lying(answer) as server:
        shown = catalogue(f"{url_of(server)}/web", tmp_path)
        thread = threading.Thread(target=shown.refresh)
        thread.start()
        assert asked.wait(10)
        began = time.monotonic()
        assert shown.items() == [] and shown.refresh() is False
        assert time.monotonic() - began < 5
        hold.set()
        thread.join(10)
        assert not thread.is_alive()
        shown.close()


def test_an_instance_that_is_refused_is_skipped_from_then_on(tmp_path: Path, pacs: Orthanc) -> None:
    ds = renewed("rgb_color")
    ds.Rows = 40_000
    path = tmp_path / "large.dcm"
    dcmwrite(path, ds)
    pacs.upload(path)
    shown = catalogue(pacs, tmp_path)
    (item,) = shown.items()
    with pytest.raises(RefusedInstanceError):
        shown.frame(FrameId(item.id, 0))
    assert shown.items() == [] and [name for name, _ in shown.skipped()] == [item.id]
    with pytest.raises(UnknownIdError):
        shown.item(item.id)
    shown.close()

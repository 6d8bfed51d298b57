"""The whole service beside a real Orthanc: routed in, computed, back exactly once, whatever dies meanwhile."""

from __future__ import annotations

import os
import shutil
import signal
import time
from pathlib import Path

import highdicom
import pydicom
import pytest
from orthanc import free_ports, orthanc
from pydicom import examples
from service_case import STAGES, configuration, service

from sonodistill.dicom.service.audit import verify

CINE = Path(examples.get_path("ybr_color"))
STILL = Path(examples.get_path("rgb_color"))
LUA = """
function OnStableSeries(id, tags, metadata)
  local series = ParseJson(RestApiGet('/series/' .. id))
  if series['MainDicomTags']['Modality'] == 'US' then
    RestApiPost('/modalities/sono/store', DumpJson({Resources={id}, Synchronous=false}, true))
  end
end
"""


def scp(port: int) -> str:
    return f'scp = {{allow = ["ORTHANC@127.0.0.1"], port = {port}}}'


def dimse(port: int, name: str = "pacs") -> str:
    return f'[[destination]]\nname = "{name}"\nkind = "dimse"\nhost = "127.0.0.1"\nport = {port}\nae_title = "ORTHANC"'


def stow(port: int, name: str = "pacs") -> str:
    return f'[[destination]]\nname = "{name}"\nkind = "stow"\nurl = "http://127.0.0.1:{port}/dicom-web"'


def modalities(pacs) -> list[str]:
    """Of the instances that a PACS holds."""
    return sorted(pacs.get(f"/instances/{each}/tags?simplify")["Modality"] for each in pacs.instances())


def test_routed_by_orthanc_a_cine_comes_back_as_seg_and_sr_exactly_once_after_three_sends(tmp_path):
    ours, theirs = free_ports(2)
    with orthanc(tmp_path, modalities={"sono": ("SONODISTILL", ours)}, lua=LUA, dicom_port=theirs) as pacs:
        with service(configuration(tmp_path, f"{scp(ours)}\n{dimse(theirs)}")) as running:
            source = pacs.upload(CINE)
            running.wait(lambda: modalities(pacs) == ["SEG", "SR", "US"])
            for _ in range(2):
                pacs.store_to("sono", [source])
            time.sleep(1)
            assert running.counts() == {"done": 1, "d-done": 1}
            assert modalities(pacs) == ["SEG", "SR", "US"]
            assert running.stop() == 0
        files = [pacs.file(each) for each in pacs.instances()]
    assert not running.files("instances"), "what is delivered leaves the spool"
    assert not running.files("results")
    assert verify(running.spool / "audit.jsonl").broken == ""
    log = running.log.read_text() + (running.spool / "audit.jsonl").read_text()
    patient = pydicom.dcmread(CINE, stop_before_pixels=True)
    assert str(patient.PatientName) not in log and patient.SOPInstanceUID not in log
    assert len(files) == 3


@pytest.mark.parametrize("destination", [dimse, stow])
def test_killed_at_each_stage_the_result_is_there_exactly_once(tmp_path, destination):
    ours, theirs = free_ports(2)
    ports = {"dicom_port": theirs} if destination is dimse else {"http_port": theirs}
    unguarded = {"AuthenticationEnabled": False}  # its DICOMweb knows no tokens
    with (
        orthanc(tmp_path, modalities={"sono": ("SONODISTILL", ours)}, settings=unguarded, **ports) as pacs,
        service(configuration(tmp_path, f"{scp(ours)}\n{destination(theirs)}"), faulty=tmp_path / "faults") as running,
    ):
        source = pacs.upload(CINE)
        with pytest.raises(OSError):  # the first send dies with the receiver
            pacs.store_to("sono", [source])
        running.wait(lambda: _sent(pacs, source))
        running.wait(lambda: running.counts() == {"done": 1, "d-done": 1}, 120)
        assert {path.name for path in (tmp_path / "faults").iterdir()} == set(STAGES)
        running.wait(lambda: not running.files("results"))
        assert modalities(pacs) == ["SEG", "SR", "US"]


def _sent(pacs, source) -> bool:
    try:
        pacs.store_to("sono", [source])
    except OSError:
        return False
    return True


def test_killed_as_a_whole_it_goes_on_where_it_was_and_leaves_no_process_behind(tmp_path):
    ours, theirs = free_ports(2)
    config = configuration(tmp_path, f"{scp(ours)}\n{dimse(theirs)}")
    # The destination is not there yet.
    with orthanc(tmp_path, modalities={"sono": ("SONODISTILL", ours)}) as sender, service(config) as running:
        sender.store_to("sono", [sender.upload(CINE), sender.upload(STILL)])
        running.wait(lambda: running.counts().get("done") == 2)
        os.kill(running.process.pid, signal.SIGKILL)
        running.process.wait()
    with orthanc(tmp_path, modalities={"sono": ("SONODISTILL", ours)}, dicom_port=theirs) as pacs:
        with service(config) as again:  # its port and its spool are free
            again.wait(lambda: again.counts() == {"done": 2, "d-done": 2})
        assert modalities(pacs) == ["SEG", "SEG", "SR", "SR"]


def test_by_dicomweb_it_pulls_and_stows_through_a_destination_that_was_down(tmp_path):
    (tmp_path / "token").write_text("a-token-of-some-length")
    http, pacs_http = free_ports(2)
    text = (
        f'http = {{port = {http}, token_file = "token"}}\n[[watch]]\nfolder = "in"\nquiet_seconds = 0.2\n'
        f'[[destination]]\nname = "web"\nkind = "stow"\nurl = "http://127.0.0.1:{pacs_http}/dicom-web"'
    )
    (tmp_path / "in").mkdir()
    with service(configuration(tmp_path, text)) as running:
        shutil.copy(CINE, tmp_path / "in" / "clip.dcm")
        (tmp_path / "in" / "notes.txt").write_text("no DICOM")
        running.wait(lambda: running.counts().get("d-queued", 0) + running.counts().get("d-running", 0) == 1)
        with orthanc(tmp_path, http_port=pacs_http, settings={"AuthenticationEnabled": False}) as pacs:
            running.wait(lambda: running.counts().get("d-done") == 1)
            assert modalities(pacs) == ["SEG", "SR"]
        assert running.counts() == {"done": 1, "refused": 1, "d-done": 1}


def test_results_in_a_folder_are_read_by_highdicom(tmp_path):
    text = (
        '[[watch]]\nfolder = "in"\nquiet_seconds = 0.2\n[[destination]]\nname = "out"\nkind = "folder"\nfolder = "out"'
    )
    (tmp_path / "in").mkdir()
    (tmp_path / "out").mkdir()
    shutil.copy(CINE, tmp_path / "in")
    with service(configuration(tmp_path, text)) as running:
        running.wait(lambda: running.counts().get("d-done") == 1)
    made = {pydicom.dcmread(path).Modality: path for path in (tmp_path / "out").iterdir()}
    segmentation = highdicom.seg.segread(made["SEG"])
    assert segmentation.number_of_segments == 1 and segmentation.NumberOfFrames == 30
    assert segmentation.SoftwareVersions[0].startswith("SonoDistill")
    report = highdicom.sr.srread(made["SR"])
    assert report.CurrentRequestedProcedureEvidenceSequence

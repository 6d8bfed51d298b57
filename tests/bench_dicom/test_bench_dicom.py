"""`sonodistill bench dicom`: what it measures and prints, not how fast anything is."""

from __future__ import annotations

import json
from pathlib import Path

import psutil
import pytest
from typer.testing import CliRunner

from sonodistill.dicom.source import read_source
from sonodistill_training.bench.commands import app
from sonodistill_training.bench.dicom import service as module
from sonodistill_training.bench.dicom.clips import disk_loop, write_clips, write_stills
from sonodistill_training.bench.dicom.sender import store
from sonodistill_training.bench.dicom.service import ServiceError, configure, running, send
from sonodistill_training.bench.dicom.setup import Setup

NUMBERS = {
    *("end_to_end_vs_bare", "end_to_end_vs_bare_speckle", "decode_ms_per_frame", "receive_mb_per_second"),
    *("first_result_seconds", "decode_seconds", "inference_seconds", "measure_seconds", "write_seconds"),
}


@pytest.mark.slow
def test_the_last_line_is_json_with_a_positive_number_for_each_goal():
    before = _children()
    result = CliRunner().invoke(app, ["dicom", "--quick", "--drain", "12", "--json"])
    assert result.exit_code == 0, result.output
    found = json.loads(result.stdout.splitlines()[-1])
    assert found.keys() >= NUMBERS
    assert all(isinstance(found[key], float) and found[key] > 0 for key in NUMBERS)
    assert 0 < found["receive_rss_mb"]["before"] <= found["receive_rss_mb"]["peak"]
    assert found["receive_clips"] == 4 and found["frames"] == 4 and found["threads"] == 1
    assert 0 < found["structures"] < found["structures_speckle"]
    drained = found["drain"]
    assert drained["instances"] == 12 and drained["instances_per_second"] > 0
    assert drained["rss_mb"]["peak"] >= drained["rss_mb"]["after"] > 0
    assert _children() == before, "no process stays behind"


def test_the_clips_are_instances_that_the_service_takes(tmp_path):
    loop = disk_loop(0)
    clips = [read_source(path) for path in write_clips(tmp_path, loop, 3, 2)]
    assert [(clip.frames, clip.rows, clip.columns) for clip in clips] == [(3, 480, 640)] * 2
    assert len({clip.sop_uid for clip in clips}) == 2
    (still,) = [read_source(path) for path in write_stills(tmp_path / "stills", 1, 0)]
    assert (still.frames, still.rows, still.columns) == (1, 64, 64)


def test_without_dcmtk_pynetdicom_sends(tmp_path, monkeypatch):
    monkeypatch.setattr(module.shutil, "which", lambda _: None)
    (model := tmp_path / "model.onnx").write_bytes(b"not opened by the role that receives")
    clips = write_clips(tmp_path, disk_loop(0), 1, 2)
    with running(*configure(tmp_path / "service", model, setup=Setup()), role="receive") as service:
        program, seconds = send(service.port, [clips[:1], clips[1:]])
        assert program == "pynetdicom" and seconds > 0
        assert service.states() == {"received": 2}
    assert not store(service.port, clips), "it has ended"


def test_a_service_that_cannot_work_is_an_error_that_says_so(tmp_path):
    configuration, port = configure(tmp_path / "service", tmp_path / "none.onnx", setup=Setup())
    with pytest.raises(ServiceError, match="ended with code"), running(configuration, port):
        pass


def test_a_sender_that_fails_is_an_error(tmp_path: Path):
    with pytest.raises(ServiceError, match="failed with"):
        send(1, [[tmp_path / "none.dcm"]])


def _children() -> set[int]:
    return {child.pid for child in psutil.Process().children(recursive=True) if child.status() != psutil.STATUS_ZOMBIE}

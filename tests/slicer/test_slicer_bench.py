"""The benchmark of the Slicer extension runs and says what it measured; how fast is for quiet machines to tell."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("slicer_core", reason="needs slicer-core: pip install slicer-core")
pytest.importorskip("typer", reason="needs sonodistill")

from sonodistill_training.bench.slicer import NoSlicerError, Setup, bench_slicer

TIMES = ("mask_write_p95_ms", "browse_fps", "oblique_frame_p95_ms", "mask_read_p95_ms", "store_opened_s")


def test_its_last_line_is_json_with_every_number():
    code = "import sys; from sonodistill_training.bench.commands import app; app(sys.argv[1:], prog_name='bench')"
    done = subprocess.run(
        [sys.executable, "-c", code, "slicer", "--quick", "--json"],
        capture_output=True,
        text=True,
        timeout=120,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )
    assert done.returncode == 0, done.stderr
    said = json.loads(done.stdout.splitlines()[-1])
    assert all(said[name] > 0 for name in TIMES)
    assert (said["frames"], said["size"], said["plane"]) == (12, "120x160", "48x48")
    assert said["processor"]
    assert said["python"]


def test_a_setup_of_its_own_is_measured(scene):
    said = bench_slicer(Setup(frames=5, size=(30, 40), rounds=2, voxels=16, plane=16, planes=3))
    assert (said["frames"], said["size"], said["volume"]) == (5, "30x40", "16x16x16")
    assert scene.GetNumberOfNodesByClass("vtkMRMLSequenceNode") == 0


def test_where_the_extension_is_not_it_says_so(tmp_path, monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(NoSlicerError, match="UltrasoundSegmentLib"):
        bench_slicer(Setup.quick(), Path(tmp_path))

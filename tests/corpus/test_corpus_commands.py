"""The command line of the corpus: quick help with an example, and bad options named before anything is read."""

from __future__ import annotations

import json
import subprocess
import sys
from functools import partial

import pytest
from command_case import run_here

HEAVY = ("dask", "distributed", "torch", "pyarrow", "cv2", "scipy", "sklearn", "monai", "SimpleITK")
BAD = {
    "on leak maybe": ["--on-leak", "maybe"],
    "the shares 1, 2 do not divide a whole": ["--splits", "1,2"],
    "the shares 0.5, 0.2, 0.2 do not divide a whole": ["--splits", "0.5,0.2,0.2"],
    "no numbers": ["--splits", "most,some,few"],
    "overlay nonsense": ["--overlay", "nonsense"],
    "cut by 'nonsense'": ["--cut", "nonsense"],
    "cut by 'rotational:many'": ["--cut", "rotational:many"],
    "grouped by 'ward'": ["--group-by", "ward"],
    "per second is 0.0": ["--per-second", "0"],
    "different is 3.0": ["--different", "3"],
    "0.1 GiB of memory": ["--memory", "0.1"],
    "patience of 0 seconds": ["--patience", "0"],
    "no such file": ["nowhere"],
    "cannot be the name of a data set": ["a/b=nowhere"],
}


@pytest.fixture
def sonodistill(monkeypatch, capsys):
    """Run the command in this process; (exit code, everything printed)."""
    return partial(run_here, monkeypatch, capsys)


@pytest.mark.parametrize("said", BAD)
def test_a_bad_option_is_named_before_anything_is_read(sonodistill, stills, key_file, tmp_path, said):
    folder, out = stills(tmp_path / "scans", range(1)), tmp_path / "corpus"
    code, printed = sonodistill("corpus", "build", folder, "--out", out, "--key", key_file, *BAD[said])
    assert code == 2
    assert said in printed
    assert "What to do" in printed or "no such file" in printed
    assert "Traceback" not in printed
    assert not list(out.rglob("*.parquet")) and not (out / "parts").exists()


def test_help_shows_an_example_and_loads_nothing_heavy():
    script = (
        "import json, sys, time; start = time.process_time()\n"
        "from sonodistill.cli import main\n"
        "sys.argv = ['sonodistill', 'corpus', 'build', '--help']\n"
        "try: main()\n"
        "except SystemExit: pass\n"
        f"loaded = [name for name in {HEAVY} if name in sys.modules]\n"
        "print(json.dumps([loaded, time.process_time() - start]), file=sys.stderr)\n"
    )
    ran = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=60)
    loaded, seconds = json.loads(ran.stderr.splitlines()[-1])
    assert loaded == []
    assert seconds < 1
    assert "Example: sonodistill corpus build" in ran.stdout


def test_a_sound_build_ends_with_zero(command, stills, scheduler, key_file, tmp_path):
    stills(tmp_path / "scans", range(3))
    more = ("--key", key_file, "--scheduler", scheduler)
    ran = command("corpus", "build", "scans", "--out", "corpus", *more, cwd=tmp_path)
    assert (ran.returncode, ran.stderr) == (0, "")
    assert "3 frames of 3 files" in ran.stdout


def test_show_prints_the_summary(sonodistill, built):
    code, printed = sonodistill("corpus", "show", built.folder)
    assert code == 0
    assert json.loads(printed) == json.loads((built.folder / "summary.json").read_text())


def test_show_says_what_is_no_corpus(sonodistill, tmp_path):
    code, printed = sonodistill("corpus", "show", tmp_path)
    assert code == 2
    assert "corpus build" in printed

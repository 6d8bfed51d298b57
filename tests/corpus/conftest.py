"""Sources of every kind, a cluster that several builds share, and builds of a corpus from them."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import dicom_factory
import numpy as np
import pyarrow.parquet as pq
import pytest
import SimpleITK as sitk
from pydicom import examples
from sklearn.datasets import load_sample_images

from sonodistill_training.bench.cine import encoded_loop, screen, write_cine
from sonodistill_training.corpus.build import Plan, build
from sonodistill_training.corpus.finish import Rules
from sonodistill_training.corpus.privacy import KeyedNames
from sonodistill_training.corpus.simulator import simulate_frame

KEY = b"a key of thirty-two bytes or more"
NAME = "John_Doe_19700101"
"""What no output may show."""
REGION_MM = 0.5


@dataclass(frozen=True)
class Built:
    """A corpus, what its command printed, and the files it was built from by their path in the sources."""

    folder: Path
    sources: Path
    code: int
    printed: str

    @property
    def frames(self) -> list[dict[str, Any]]:
        return pq.read_table(self.folder / "manifest.parquet").to_pylist()

    @property
    def files(self) -> list[dict[str, Any]]:
        return pq.read_table(self.folder / "files.parquet").to_pylist()

    def of(self, name: str) -> list[dict[str, Any]]:
        """The rows of the source file that ends so."""
        [path] = [path for path in self.sources.rglob("*") if path.as_posix().endswith(name)]
        source = KeyedNames(KEY)("source", "local", "clinic", path.relative_to(self.sources).as_posix())
        return [row for row in self.frames if row["source"] == source]


@pytest.fixture(scope="session")
def key_file(tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("key") / "corpus.key"
    path.write_bytes(KEY)
    return path


@pytest.fixture(scope="session")
def clinic(tmp_path_factory) -> Path:
    """A folder as a clinic hands it over: stills, a cine, a volume, and what is no ultrasound or no image."""
    folder = tmp_path_factory.mktemp("sources") / "clinic"
    patient = folder / NAME
    patient.mkdir(parents=True)
    for number in range(2):
        still(patient / f"still_{number}.png", number)
    for number in range(3):
        shown = screen(simulate_frame(100 + number, size=(400, 520)).image, number, "DOE^JOHN 19700101")
        cv2.imwrite(str(patient / f"{NAME}_screen_{number}.png"), shown)
    write_cine(folder / f"{NAME}_cine.dcm", encoded_loop(7, distinct=12), 24)
    _write_calibrated(patient / f"{NAME}_calibrated.dcm")
    _write_volume(folder / f"{NAME}_volume.nrrd")
    for number, photo in enumerate(load_sample_images().images):
        cv2.imwrite(str(folder / f"photo_{number}.jpg"), photo[..., ::-1])
    page = np.zeros((300, 400), np.uint8)
    cv2.imwrite(str(folder / "blank.png"), page)
    for line in range(6):
        cv2.putText(page, "REPORT OF DOE", (30, 40 + 40 * line), cv2.FONT_HERSHEY_SIMPLEX, 1, 255, 2)
    cv2.imwrite(str(folder / "text.png"), page)
    (folder / f"{NAME}_corrupt.png").write_bytes(b"\x89PNG\r\n\x1a\n" + NAME.encode())
    whole = Path(examples.get_path("rgb_color")).read_bytes()
    (folder / f"{NAME}_truncated.dcm").write_bytes(whole[: len(whole) // 2])
    for name in ("palette_color", "ybr_color"):
        (folder / f"{name}.dcm").write_bytes(Path(examples.get_path(name)).read_bytes())
    return folder


def still(path: Path, seed: int, size: tuple[int, int] = (300, 400)) -> Path:
    """A simulated frame as a PNG."""
    path.parent.mkdir(parents=True, exist_ok=True)
    cv2.imwrite(str(path), simulate_frame(seed, size=size).image)
    return path


def _write_calibrated(path: Path) -> None:
    image = simulate_frame(55, size=(480, 600), probe="linear").image
    height, width = image.shape
    region = dicom_factory.region(0, 0, width - 1, height - 1, cm=REGION_MM / 10)
    named = {"PatientName": "Doe^John", "PatientID": NAME, "StudyDate": "19700101"}
    dicom_factory.save(dicom_factory.ultrasound(image[None], SequenceOfUltrasoundRegions=[region], **named), path)


def _write_volume(path: Path) -> None:
    """Speckle in an ellipsoid, 0.5 mm between the slices."""
    random = np.random.default_rng(3)
    z, y, x = np.meshgrid(np.linspace(-1, 1, 12), np.linspace(-1, 1, 90), np.linspace(-1, 1, 110), indexing="ij")
    tissue = random.rayleigh(40, z.shape) * (1 + np.sin(6 * x) * np.cos(5 * y + 2 * z))
    voxels = np.where(z**2 + y**2 + x**2 < 1.5, np.clip(tissue, 1, 255), 0).astype(np.uint8)
    image = sitk.GetImageFromArray(voxels)
    image.SetSpacing((0.3, 0.4, 0.5))
    sitk.WriteImage(image, str(path))


def sonodistill(*arguments: Any, cwd: Path, **more: Any) -> subprocess.CompletedProcess[str]:
    """Run the command in a process of its own."""
    command = [sys.executable, "-m", "sonodistill", *map(str, arguments)]
    environment = {**os.environ, "COLUMNS": "200"}
    return subprocess.run(command, cwd=cwd, capture_output=True, text=True, timeout=500, env=environment, **more)


@pytest.fixture(scope="session")
def command() -> Callable[..., subprocess.CompletedProcess[str]]:
    """Runs ``sonodistill`` in a process of its own."""
    return sonodistill


@pytest.fixture(scope="session")
def built(clinic, key_file, tmp_path_factory) -> Built:
    """The corpus of the clinic's folder, as the command line builds it on this machine's cores."""
    folder = tmp_path_factory.mktemp("built")
    ran = sonodistill("corpus", "build", clinic, "--out", "corpus", "--key", key_file, cwd=folder)
    return Built(folder / "corpus", clinic, ran.returncode, ran.stdout + ran.stderr)


_SCHEDULER = """
import sys
from distributed import LocalCluster
with LocalCluster(n_workers=2, threads_per_worker=1, host="127.0.0.1", dashboard_address="127.0.0.1:0") as cluster:
    print(cluster.scheduler_address, flush=True)
    sys.stdin.read()
"""


@pytest.fixture(scope="session")
def scheduler() -> Iterator[str]:
    """Address of a scheduler with two workers, which stay warm from build to build.

    In a process of its own: Dask leaves threads, and the variables of its workers, in the one that starts it.
    """
    with subprocess.Popen([sys.executable, "-c", _SCHEDULER], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        yield process.stdout.readline().decode().strip()
        process.stdin.close()


@pytest.fixture(scope="session")
def corpus_of(scheduler) -> Callable[..., Built]:
    """Builds a corpus on the shared scheduler: ``corpus_of(out, *sources, **fields of Plan and Rules)``."""

    def run(out: Path, *sources: str | Path, key: bytes = KEY, **options: Any) -> Built:
        ruling = {name: options.pop(name) for name in Rules.__dataclass_fields__ if name in options}
        options.setdefault("scheduler", scheduler)
        build(Plan([str(source) for source in sources], out, key, rules=Rules(**ruling), **options))
        return Built(out, Path(), 0, "")

    return run


@pytest.fixture(scope="session")
def stills() -> Callable[..., Path]:
    """Writes a folder of simulated stills: ``stills(folder, seeds)``."""

    def write(folder: Path, seeds: range) -> Path:
        for seed in seeds:
            still(folder / f"{seed}.png", seed, (200, 260))
        return folder

    return write

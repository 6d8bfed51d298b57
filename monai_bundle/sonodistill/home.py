"""Where the folders lie that are no Python packages: the bundle with configs and models, and the MONAI Label app."""

from __future__ import annotations

from importlib.metadata import PackageNotFoundError, files
from pathlib import Path

_CHECKOUT = Path(__file__).resolve().parents[2]
_SHARED = "share/sonodistill"  # below the environment's prefix; see data-files in pyproject.toml


def bundle() -> Path:
    """The bundle of this installation: the folder that the package lies in (a checkout, an editable install, a copied
    bundle), else that of a wheel."""
    around = Path(__file__).resolve().parents[1]
    return around if (around / "configs").is_dir() else _installed("monai_bundle/configs/metadata.json", 2) or around


def label_app() -> Path:
    """The MONAI Label app, of a checkout or of a wheel."""
    beside = _CHECKOUT / "monailabel_app"
    return beside if beside.is_dir() else _installed("monailabel_app/main.py", 1) or beside


def _installed(file: str, up: int) -> Path | None:
    """The folder so many levels above a file that the wheel installed outside the packages."""
    try:
        found = next((one for one in files("sonodistill") or () if one.as_posix().endswith(f"{_SHARED}/{file}")), None)
    except PackageNotFoundError:
        return None
    return Path(found.locate()).resolve().parents[up - 1] if found else None  # type: ignore[arg-type]

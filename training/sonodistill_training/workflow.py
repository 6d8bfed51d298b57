"""Run a bundle config from Python: what the command line and the quick start do is what `monai.bundle run` does."""

from __future__ import annotations

import json
import logging
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import yaml

from sonodistill.bundle import CONFIGS, Workflow, package_bundle
from sonodistill.errors import BundleConfigError


def run_bundle(configs: str | list[str], run_id: str = "training", **overrides: Any) -> Workflow:
    """Initialise, run and finalise a config of the bundle; returns the workflow, whose parts can be looked at.

    Args:
        configs: "distill.yaml", or a config and its overlays.
        overrides: settings, as on the command line; a nested one has "#" or "::" in its name.
    """
    values = {name: json.loads(json.dumps(value, default=str)) for name, value in overrides.items()}
    with _quiet_monai():
        workflow = Workflow(configs, run_id=run_id, logging_file=False, **values)
        workflow.initialize()
        workflow.run()
        workflow.finalize()
    return workflow


@contextmanager
def _quiet_monai() -> Iterator[None]:
    """MONAI warns that it reads a config (which is code, but the package's own) and that it leaves logging alone."""
    bundle_logger = logging.getLogger("monai.bundle.workflows")
    level = bundle_logger.level
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="parsing config_file")
        bundle_logger.setLevel(logging.ERROR)
        try:
            yield
        finally:
            bundle_logger.setLevel(level)


def parse_settings(settings: Sequence[str]) -> dict[str, Any]:
    """``NAME=VALUE`` words as overrides; a value is read as YAML.

    Raises:
        BundleConfigError: a word without "=".
    """
    for word in settings:
        if "=" not in word:
            raise BundleConfigError(f"--set {word} has no value", remedy="write --set NAME=VALUE")
    return {name: yaml.safe_load(value) for name, _, value in (word.partition("=") for word in settings)}


def recipe_files(names: Sequence[str]) -> list[str]:
    """The overlays of distill.yaml with these names, or the files that they name.

    Raises:
        BundleConfigError: there is no such recipe.
    """
    return _overlays(package_bundle() / CONFIGS / "recipes", "", names)


def overlay_files(config: str, names: Sequence[str]) -> list[str]:
    """Overlays of a config that lie beside it: "mae" of "pretrain" is pretrain_mae.yaml; or the files that they name.

    Raises:
        BundleConfigError: there is no such overlay.
    """
    return _overlays(package_bundle() / CONFIGS, f"{config}_", names)


def _overlays(folder: Path, prefix: str, names: Sequence[str]) -> list[str]:
    files = [Path(name) if name.endswith(".yaml") else folder / f"{prefix}{name}.yaml" for name in names]
    for name, file in zip(names, files, strict=True):
        if not file.is_file():
            stems = sorted(path.stem.removeprefix(prefix) for path in folder.glob(f"{prefix}*.yaml"))
            known = ", ".join(stem for stem in stems if stem != "args")
            raise BundleConfigError(f"there is no recipe {name}", remedy=f"choose among {known}, or name a YAML file")
    return [str(file) for file in files]

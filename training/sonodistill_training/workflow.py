"""Run a bundle config from Python: what the command line and the quick start do is what `monai.bundle run` does."""

from __future__ import annotations

import json
import warnings
from collections.abc import Sequence
from typing import Any

import yaml

from sonodistill.bundle import Workflow
from sonodistill.errors import BundleConfigError


def run_bundle(configs: str | list[str], run_id: str = "training", **overrides: Any) -> Workflow:
    """Initialise, run and finalise a config of the bundle; returns the workflow, whose parts can be looked at.

    Args:
        configs: "distill.yaml", or a config and its overlays.
        overrides: settings, as on the command line; a nested one has "#" or "::" in its name.
    """
    values = {name: json.loads(json.dumps(value, default=str)) for name, value in overrides.items()}
    with warnings.catch_warnings():
        # MONAI warns of every config it reads, since configs are code; these are the package's own.
        warnings.filterwarnings("ignore", message="parsing config_file")
        workflow = Workflow(configs, run_id=run_id, logging_file=False, **values)
        workflow.initialize()
        workflow.run()
        workflow.finalize()
    return workflow


def parse_settings(settings: Sequence[str]) -> dict[str, Any]:
    """``NAME=VALUE`` words as overrides; a value is read as YAML.

    Raises:
        BundleConfigError: a word without "=".
    """
    for word in settings:
        if "=" not in word:
            raise BundleConfigError(f"--set {word} has no value", remedy="write --set NAME=VALUE")
    return {name: yaml.safe_load(value) for name, _, value in (word.partition("=") for word in settings)}

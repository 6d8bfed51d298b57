"""A run as files, and on the terminal."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from sonodistill.files import write_text
from sonodistill_training.bench.deploy.plot import draw
from sonodistill_training.bench.deploy.table import markdown
from sonodistill_training.bench.report import show


def write_deploy(result: Mapping[str, Any], folder: Path) -> list[Path]:
    """Write deploy.json, deploy.md, deploy.png and deploy.svg; the paths."""
    folder.mkdir(parents=True, exist_ok=True)
    written = [folder / "deploy.json", folder / "deploy.md"]
    write_text(written[0], json.dumps(result, indent=1) + "\n")
    write_text(written[1], markdown(result))
    return written + draw(result, folder)


def show_deploy(result: Mapping[str, Any], as_json: bool) -> None:
    """The page on the terminal, or one JSON object as the last line."""
    if as_json:
        show(result, as_json)
        return
    from rich.console import Console
    from rich.markdown import Markdown

    Console().print(Markdown(markdown(result)))

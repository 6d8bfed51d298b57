"""The real ultrasound that every installation has: the examples that pydicom ships."""

from __future__ import annotations

from pathlib import Path

from pydicom import examples

CINE = "ybr_color"
STILLS = ("rgb_color", "palette_color", "jpeg2k")
LICENCE = "MIT (shipped with pydicom)"


def example_files() -> list[Path]:
    """A 30-frame cine, then three stills; nothing is downloaded."""
    return [examples.get_path(name) for name in (CINE, *STILLS)]

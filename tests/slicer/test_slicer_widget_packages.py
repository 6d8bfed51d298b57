"""Packages of local models where Slicer can install them: declined, failed, installed."""

from __future__ import annotations

import sys
import types
from pathlib import Path
from subprocess import CalledProcessError
from typing import Any

import pytest

pytest.importorskip("slicer_core", reason="needs slicer-core: pip install slicer-core")
pytest.importorskip("PySide6", reason="needs PySide6: pip install pyside6-essentials")

from qt_shim.harness import Panel


@pytest.mark.parametrize(
    "raised", [RuntimeError("Installation was declined"), CalledProcessError(1, ["pip", "install"]), None]
)
def test_an_installation_that_was_declined_or_failed_is_a_line_of_text(
    module: Panel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, raised: Exception | None
) -> None:
    """As slicer.packaging of 5.12 raises it."""
    from UltrasoundSegmentWidgets import packages

    def pip_ensure(requirements: list[str], requester: str | None = None) -> None:
        assert requirements == ["no-such-package-here>=2"] and requester
        if raised is not None:
            raise raised

    fake: Any = types.ModuleType("slicer.packaging")
    fake.load_requirements = lambda path: Path(path).read_text(encoding="utf-8").split()
    fake.pip_ensure = pip_ensure
    monkeypatch.setitem(sys.modules, "slicer.packaging", fake)
    lines = tmp_path / "requirements.txt"
    lines.write_text("no-such-package-here>=2\n", encoding="utf-8")
    with pytest.raises(packages.PackagesMissingError, match="Nothing was installed" if raised else "Not installed"):
        packages.ensure(lines)

"""The Python packages of local models: checked when asked, installed only after the user agreed."""

from __future__ import annotations

import importlib.metadata
from pathlib import Path
from subprocess import CalledProcessError

from slicer.i18n import tr as _
from UltrasoundSegmentLib.errors import SegmentError

REQUIREMENTS = Path(__file__).resolve().parents[1] / "Resources" / "requirements.txt"


class PackagesMissingError(SegmentError):
    """Packages are not installed, and this version of Slicer cannot ask to install them."""


def missing(requirements: Path = REQUIREMENTS) -> list[str]:
    """Lines of the file whose package is not installed. Versions are left to the installer."""
    lines = [line.split("#")[0].strip() for line in requirements.read_text(encoding="utf-8").splitlines()]
    found = []
    for line in filter(None, lines):
        name = "".join(c if c.isalnum() or c in "-_." else " " for c in line).split()[0]
        try:
            importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            found.append(line)
    return found


def ensure(requirements: Path = REQUIREMENTS) -> str:
    """Install what is missing through Slicer's own dialog, which asks first; what was found, as a sentence.

    Errors: PackagesMissingError on Slicer before 5.12, with the command to type; also where the user declined or
    the installation failed.
    """
    try:
        from slicer.packaging import load_requirements, pip_ensure
    except ImportError:
        lacking = missing(requirements)
        if lacking:
            quoted = " ".join(f'"{line}"' for line in lacking)
            raise PackagesMissingError(
                _(
                    "Local models need Python packages. In the Python console: slicer.util.pip_install('{names}')"
                ).format(names=quoted)
            ) from None
        return _("The packages of local models are installed.")
    try:
        pip_ensure(load_requirements(str(requirements)), requester="UltrasoundSegment")
    except (RuntimeError, CalledProcessError) as error:  # the user declined, or pip failed
        raise PackagesMissingError(_("Nothing was installed: {why}").format(why=error)) from error
    lacking = missing(requirements)
    if lacking:
        raise PackagesMissingError(_("Not installed: {names}.").format(names=", ".join(lacking)))
    return _("The packages of local models are installed.")

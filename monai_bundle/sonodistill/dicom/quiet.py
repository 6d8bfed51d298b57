"""Silence for a process that handles patient data: what libraries log and warn of quotes values of what they read."""

from __future__ import annotations

import logging
import warnings


def quiet() -> None:
    """No warning, and no log line but of the gravest faults, from the libraries, for the rest of this process."""
    for name in ("pydicom", "pynetdicom", "highdicom"):
        logging.getLogger(name).setLevel(logging.CRITICAL)
    warnings.simplefilter("ignore")

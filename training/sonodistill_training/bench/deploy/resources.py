"""Memory and energy as the operating system tells them, and None where it does not. Imports nothing heavy."""

from __future__ import annotations

import os
from pathlib import Path

_RAPL = Path("/sys/class/powercap")
_STATUS = Path("/proc/self/status")


def peak_rss_mb() -> float | None:
    """Most resident memory that this process has had since it was started, in 10^6 bytes; None but on Linux."""
    try:
        lines = _STATUS.read_text(encoding="ascii").splitlines()
    except OSError:
        return None
    return next((int(line.split()[1]) * 1024 / 1e6 for line in lines if line.startswith("VmHWM:")), None)


def pin(threads: int) -> list[int]:
    """Keep this process on its last ``threads`` cores, those that exist; returns them (none but on Linux)."""
    if not hasattr(os, "sched_setaffinity"):
        return []
    cores = sorted(os.sched_getaffinity(0))[-threads:]
    os.sched_setaffinity(0, cores)
    return cores


class EnergyMeter:
    """Joules that the processor's packages have used, other processes' share included.

    Attributes:
        reason: why nothing can be read; empty where it can.
    """

    def __init__(self, folder: Path = _RAPL) -> None:
        self._zones = sorted(folder.glob("intel-rapl:?")) if folder.is_dir() else []
        self.reason = "" if self._zones else f"no RAPL counter below {folder}"
        if self._zones and self._read() is None:
            self.reason = f"{self._zones[0]}/energy_uj is not readable by this user"
        self._began: list[int] | None = None

    def start(self) -> None:
        """Count from here."""
        self._began = self._read()

    def joules(self) -> float | None:
        """Since :meth:`start`; None where it cannot be read."""
        now = self._read()
        if self.reason or now is None or self._began is None:
            return None
        used = 0
        for zone, first, last in zip(self._zones, self._began, now, strict=True):
            # The counter starts anew at its limit.
            used += last - first if last >= first else last - first + _number(zone / "max_energy_range_uj")
        return used / 1e6

    def _read(self) -> list[int] | None:
        try:
            return [_number(zone / "energy_uj") for zone in self._zones]
        except (OSError, ValueError):
            return None


def _number(path: Path) -> int:
    return int(path.read_text(encoding="ascii"))

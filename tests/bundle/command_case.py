"""The command line in the test's own process."""

from __future__ import annotations

import sys

from sonodistill.cli import main


def run_here(monkeypatch, capsys, *arguments) -> tuple[int, str]:
    """Run ``sonodistill`` with these arguments; (exit code, everything printed)."""
    monkeypatch.setattr(sys, "argv", ["sonodistill", *map(str, arguments)])
    try:
        main()
        code = 0
    except SystemExit as stop:
        code = stop.code or 0
    printed = capsys.readouterr()
    return code, printed.out + printed.err

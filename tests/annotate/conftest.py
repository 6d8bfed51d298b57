"""What the tests of the catalogue open is closed."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from catalogue_case import Opened

from sonodistill.annotate.studies.catalogue import FolderCatalogue


@pytest.fixture
def opened() -> Iterator[Opened]:
    """Opens catalogues, and closes them in the end."""
    made: list[FolderCatalogue] = []

    def open_catalogue(studies: Path, work: Path | None = None, **options: float) -> FolderCatalogue:
        made.append(FolderCatalogue(studies, work or studies / ".sonodistill", **options))  # type: ignore[arg-type]
        return made[-1]

    yield open_catalogue
    for catalogue in made:
        catalogue.close()

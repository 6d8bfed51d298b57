"""Everything an annotation server needs, in one place and without a server."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from sonodistill.annotate.errors import ConflictError, NotTrainedError
from sonodistill.annotate.model import Catalogue
from sonodistill.errors import BundleConfigError

if TYPE_CHECKING:
    from sonodistill.annotate.acquire.queue import Acquisition
    from sonodistill.annotate.clicks.interactive import Interactive
    from sonodistill.annotate.labels.store import LabelStore
    from sonodistill.annotate.training.versions import Versions
    from sonodistill.inference.predictor import Predictor

SEGMENTATION, CLASSIFICATION, INTERACTIVE, EMBEDDING = "segmentation", "classification", "interactive", "embedding"
MODELS = (SEGMENTATION, CLASSIFICATION, INTERACTIVE, EMBEDDING)


@dataclass(frozen=True, slots=True)
class Settings:
    """What a user decides.

    Attributes:
        studies: folder of files, or the URL of a DICOMweb service.
        work: folder of labels, embeddings and models; by default ``.sonodistill`` in the studies, for a URL a folder
            of the cache.
        labels: names of the label numbers 1, 2, ... of a mask.
        classes: of the classification.
        models: model -> weights to start from (version 1), for each of ``MODELS`` that has any.
        threads: of inference; 0 lets the runtime choose.
        query: DICOMweb search parameters.
        token_file, user: credentials of the DICOMweb service.
        train_after: train when so many frames were accepted since the last training; 0: only when asked.
        seed: of everything drawn.
    """

    studies: str
    work: Path
    labels: tuple[str, ...] = ("lesion",)
    classes: tuple[str, ...] = ("normal", "benign", "malignant")
    models: dict[str, Path] = field(default_factory=dict)
    threads: int = 0
    query: dict[str, str] = field(default_factory=lambda: {"ModalitiesInStudy": "US"})
    token_file: Path | None = None
    user: str = ""
    train_after: int = 0
    seed: int = 0


class Workbench:
    """Catalogue, labels, models and the choice of what to label next.

    Opening it reads no frame and loads no network; ``start`` begins the background work, ``close`` ends it.

    Args:
        settings: see there.

    Attributes:
        catalogue, labels, versions, acquisition, interactive: the parts; see their modules.
    """

    def __init__(self, settings: Settings) -> None:
        from sonodistill.annotate.labels.store import LabelStore
        from sonodistill.annotate.training.versions import Versions

        unknown = set(settings.models) - set(MODELS)
        if unknown:
            raise BundleConfigError(
                f"no such model: {', '.join(sorted(unknown))}", remedy=f"choose of {', '.join(MODELS)}"
            )
        self.settings = settings
        settings.work.mkdir(parents=True, exist_ok=True, mode=0o700)
        self.catalogue: Catalogue = _catalogue(settings)
        self.labels: LabelStore = LabelStore(settings.work / "labels.sqlite", settings.labels, settings.classes)
        self.versions: dict[str, Versions] = {name: Versions(settings.work / "models" / name) for name in MODELS}
        for name, path in settings.models.items():
            self.versions[name].begin_with(path)
        self._lock = threading.RLock()
        self._predictors: dict[str, tuple[Path, Predictor]] = {}
        self._interactive: tuple[Path, Interactive] | None = None
        self._acquisition: Acquisition | None = None

    def start(self) -> None:
        """Begin to embed frames in the background."""
        self.acquisition.start()

    def close(self) -> None:
        """End the background work and close the files."""
        if self._acquisition is not None:
            self._acquisition.close()
        self.catalogue.close()
        self.labels.close()

    def predictor(self, name: str) -> Predictor:
        """The promoted version of "segmentation", "classification" or "embedding", loaded once, by the same code as
        everywhere: ``inference.predictor.Predictor``.

        Errors: NotTrainedError when there is no version yet; WeightsError for weights that cannot be used.
        """
        from sonodistill.inference.predictor import Predictor

        path = self._weights(name)
        with self._lock:
            held = self._predictors.get(name)
            if held is None or held[0] != path:
                held = (path, Predictor(path, precision="auto", threads=self.settings.threads))
                self._predictors[name] = held
            return held[1]

    @property
    def interactive(self) -> Interactive:
        """The click-conditioned decoder with its cached embeddings. Errors: NotTrainedError."""
        from sonodistill.annotate.clicks.interactive import Interactive

        path = self._weights(INTERACTIVE)
        with self._lock:
            if self._interactive is None or self._interactive[0] != path:
                self._interactive = (path, Interactive(path, threads=self.settings.threads))
            return self._interactive[1]

    @property
    def acquisition(self) -> Acquisition:
        """Embeddings, and what to label next."""
        from sonodistill.annotate.acquire.queue import Acquisition

        with self._lock:
            if self._acquisition is None:
                self._acquisition = Acquisition(
                    self.catalogue, self.labels, self.settings.work, self.versions, self.settings.seed
                )
            return self._acquisition

    def trained(self) -> Sequence[str]:
        """The models that have a version."""
        return [name for name in MODELS if self.versions[name].current() is not None]

    def _weights(self, name: str) -> Path:
        if name not in MODELS:
            raise ConflictError(f"no model {name[:40]!r}")
        version = self.versions[name].current()
        if version is None:
            raise NotTrainedError(
                f"the model {name} has no weights yet",
                remedy=f"start with --{name} FILE, or accept labels and train it",
            )
        return version.path


def _catalogue(settings: Settings) -> Catalogue:
    if settings.studies.startswith(("http://", "https://")):
        from sonodistill.annotate.remote.catalogue import WebCatalogue

        return WebCatalogue(
            settings.studies,
            settings.work / "instances",
            query=settings.query,
            token_file=settings.token_file,
            user=settings.user,
        )
    from sonodistill.annotate.studies.catalogue import FolderCatalogue

    return FolderCatalogue(Path(settings.studies), settings.work)

"""SonoDistill in MONAI Label: ultrasound annotated frame by frame, the encoder choosing what to label next."""

from sonodistill.annotate.pydicom3 import supply

supply()  # before anything of MONAI Label, which also starts this file in processes of its own

import atexit  # noqa: E402
import logging  # noqa: E402
import threading  # noqa: E402
from concurrent.futures import ThreadPoolExecutor, TimeoutError  # noqa: E402
from pathlib import Path  # noqa: E402
from typing import Any  # noqa: E402

from monailabel.config import settings  # noqa: E402
from monailabel.interfaces.app import MONAILabelApp  # noqa: E402
from monailabel.interfaces.datastore import Datastore, DefaultLabelTag  # noqa: E402
from monailabel.interfaces.tasks.infer_v2 import InferTask  # noqa: E402
from monailabel.interfaces.tasks.scoring import ScoringMethod  # noqa: E402
from monailabel.interfaces.tasks.strategy import Strategy  # noqa: E402
from monailabel.interfaces.tasks.train import TrainTask  # noqa: E402
from monailabel.utils.sessions import Sessions  # noqa: E402

import lib.strategies  # noqa: E402
from lib.batch import BatchPredictions  # noqa: E402
from lib.configs import CONFIGS  # noqa: E402
from lib.datastore import FrameDatastore  # noqa: E402
from lib.sessions import FolderSessions  # noqa: E402
from lib.settings import settings_of  # noqa: E402
from lib.targets import received  # noqa: E402
from sonodistill import __version__  # noqa: E402
from sonodistill.annotate.errors import AnnotationError, UnknownIdError  # noqa: E402
from sonodistill.annotate.training.process import start_soon  # noqa: E402
from sonodistill.annotate.workbench import Workbench  # noqa: E402
from sonodistill.errors import SonoDistillError  # noqa: E402

logger = logging.getLogger(__name__)

_PATH_SECONDS = 0.05


class MyApp(MONAILabelApp):
    """The app; see ``lib.settings.KEYS`` for what ``--conf`` takes.

    Attributes:
        workbench: catalogue, labels, models and the choice of what to label next.
    """

    def __init__(self, app_dir: str, studies: str, conf: dict[str, str]) -> None:
        self.workbench = Workbench(settings_of(studies, conf))
        self.models = {}
        for name, config in CONFIGS.items():
            self.models[name] = config()
            self.models[name].init(name, str(Path(app_dir) / "model"), conf, None, workbench=self.workbench)
        self._ahead = ThreadPoolExecutor(1, thread_name_prefix="ahead")
        super().__init__(
            app_dir=app_dir,
            studies=studies,
            conf=conf,
            name=f"SonoDistill {__version__}",
            description="Ultrasound frame by frame",
            version=__version__,
            labels=list(self.workbench.labels.names),
        )
        # Scoring would start a process for each request for a sample; strategies score in this one.
        self._auto_update_scoring = False

    def init_datastore(self) -> Datastore:
        return FrameDatastore(self.workbench)

    def init_infers(self) -> dict[str, InferTask]:
        return {name: config.infer() for name, config in self.models.items()}

    def init_trainers(self) -> dict[str, TrainTask]:
        found = {name: config.trainer() for name, config in self.models.items()}
        return {name: task for name, task in found.items() if task is not None}

    def init_strategies(self) -> dict[str, Strategy]:
        return lib.strategies.strategies(self.workbench)

    def init_scoring_methods(self) -> dict[str, ScoringMethod]:
        return {}

    def init_batch_infer(self) -> BatchPredictions:
        return BatchPredictions(self.workbench)

    def _load_sessions(self, load: bool = False) -> Sessions | None:
        if not load:
            return None
        return FolderSessions(self.workbench.settings.work / "sessions", settings.MONAI_LABEL_SESSION_EXPIRY)

    def infer(self, request: dict[str, Any], datastore: Datastore | None = None) -> dict[str, Any]:  # noqa: ARG002
        """Ask a model about an image, a frame, or a file that came with the request or lies in a session.

        Returns:
            {"label", "tag", "file", "params"}: the file of masks is temporary, and whoever asks removes it.

        Errors: UnknownIdError for no such model or image; those of the model.
        """
        name = request.get("model")
        task = self._infers.get(name) if isinstance(name, str) else None
        if task is None:
            raise UnknownIdError(f"there is no model {str(name)[:60]!r}", remedy="see GET /info/")
        tag = request.get("label_tag") or DefaultLabelTag.ORIGINAL.value
        if tag != DefaultLabelTag.ORIGINAL:
            raise AnnotationError("what a model says is only kept as original", remedy="a person accepts it")
        store = self.datastore()
        sessions = None if self._sessions is None else Path(self._sessions.store_path)
        sent = received(request.get("image"), sessions)
        target = store.images.find(request.get("image")) if sent is None else store.images.file(sent)
        with self.workbench.acquisition.busy():
            path, params = task({**request, "target": target})
        label: str | None = path
        if path and sent is None and request.get("save_label") in (True, "true"):
            try:
                label = store.save_label(target.id, path, tag, {"model": name, "params": params})
            except BaseException:
                Path(path).unlink(missing_ok=True)
                raise
        return {"label": label, "tag": tag, "file": path, "params": params}

    def next_sample(self, request: dict[str, Any]) -> dict[str, Any]:
        """What to label next: the id of a frame, its information, and where its PNG lies as soon as it is decoded."""
        name = request.get("strategy") or next(iter(self._strategies), "")
        strategy = self._strategies.get(name)
        if strategy is None:
            raise UnknownIdError(f"there is no strategy {str(name)[:60]!r}", remedy="see GET /info/")
        store = self.datastore()
        found = strategy(request, store)
        if not found:
            return {}
        info = store.get_image_info(found["id"])
        return {**info, **found, "path": self._soon(found["id"])}

    def _soon(self, image: str) -> str:
        """Where the PNG lies; "" where it takes longer to decode than a client should wait for a sample."""
        made = self._ahead.submit(self.datastore().get_image_uri, image)
        try:
            return str(made.result(_PATH_SECONDS))
        except (TimeoutError, SonoDistillError):  # told when the client asks for the image
            return ""

    def on_save_label(self, image_id: str, label_id: str) -> None:  # noqa: ARG002
        """Begin a training if as many labels were accepted as ``--conf train_after`` says; nobody waits for it."""
        if self.workbench.settings.train_after:
            start_soon(self.workbench)

    def on_init_complete(self) -> None:
        super().on_init_complete()
        if not self._server_mode:
            return
        atexit.register(self.close)
        from monailabel.app import app

        from lib.server import install

        install(app, self)
        self.workbench.start()
        if self.conf.get("preload", "true") != "false":
            threading.Thread(target=self._preload, name="preload", daemon=True).start()

    def close(self) -> None:
        """End the background work."""
        self._ahead.shutdown(wait=False, cancel_futures=True)
        self.datastore().close()
        self.workbench.close()

    def _preload(self) -> None:
        """Load the networks, so that the first request is as fast as the others."""
        for name in self.workbench.trained():
            try:
                if name == "interactive":
                    _ = self.workbench.interactive
                else:
                    self.workbench.predictor(name)
            except SonoDistillError as error:
                logger.warning("%s cannot be loaded: %s", name, error.message)

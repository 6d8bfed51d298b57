"""``--conf KEY VALUE`` of ``monailabel start_server`` as the settings of a workbench."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from pathlib import Path
from urllib.parse import parse_qsl

from sonodistill.annotate.server.offline import default_work
from sonodistill.annotate.training.versions import Versions
from sonodistill.annotate.workbench import CLASSIFICATION, EMBEDDING, MODELS, SEGMENTATION, Settings
from sonodistill.errors import BundleConfigError, SonoDistillError
from sonodistill.weights import read_info

logger = logging.getLogger(__name__)

_LABELS, _CLASSES = ("lesion",), ("normal", "benign", "malignant")

_OF_WORK = ("labels", "classes", "work", "threads", "train_after", "seed", "preload")
_OF_PACS = ("query", "token_file", "user")
_OF_OTHERS = ("server_mode", "models", "tokens", "names")  # MONAI Label's, and lib.server's
KEYS = (*MODELS, *_OF_WORK, *_OF_PACS)
"""That ``settings_of`` reads; ``preload false`` leaves the networks unloaded until they are asked for."""


def settings_of(studies: str, conf: Mapping[str, str]) -> Settings:
    """The settings.

    Names of labels and classes that are not given are those of the models. Without weights for the embedding, the
    encoder of the segmentation or classification is taken for it.

    Args:
        studies: folder, or URL of a DICOMweb service.
        conf: see ``KEYS``; ``labels`` and ``classes`` are divided by commas, ``query`` is that of a URL.

    Raises:
        BundleConfigError: a value that cannot be used.
    """
    known = {key: str(value).strip() for key, value in conf.items() if key in KEYS}
    if ignored := sorted(set(conf) - {*KEYS, *_OF_OTHERS}):
        logger.warning("--conf %s means nothing here; known are %s", ", ".join(ignored), ", ".join(KEYS))
    work = Path(known["work"]) if known.get("work") else default_work(studies)
    models = {name: Path(known[name]) for name in MODELS if known.get(name)}
    if EMBEDDING not in models and (source := models.get(SEGMENTATION) or models.get(CLASSIFICATION)):
        models[EMBEDDING] = source
    return Settings(
        studies=studies,
        work=work,
        labels=_names(known, "labels") or _of_model(work, models, SEGMENTATION) or _LABELS,
        classes=_names(known, "classes") or _of_model(work, models, CLASSIFICATION) or _CLASSES,
        models=models,
        threads=_whole(known, "threads"),
        query=dict(parse_qsl(known["query"])) if known.get("query") else {"ModalitiesInStudy": "US"},
        token_file=Path(known["token_file"]) if known.get("token_file") else None,
        user=known.get("user", ""),
        train_after=_whole(known, "train_after"),
        seed=_whole(known, "seed"),
    )


def _of_model(work: Path, models: Mapping[str, Path], name: str) -> tuple[str, ...]:
    """The labels of the version at work, else of the weights that are given; () where neither says."""
    try:
        version = Versions(work / "models" / name).current()
        if version is not None:
            return version.labels
        info = read_info(models[name]) if name in models and models[name].suffix == ".safetensors" else None
    except SonoDistillError:  # said again, and better, when the model is added
        return ()
    return info.labels if info else ()


def _names(conf: Mapping[str, str], key: str) -> tuple[str, ...]:
    return tuple(name.strip() for name in conf.get(key, "").split(",") if name.strip())


def _whole(conf: Mapping[str, str], key: str) -> int:
    text = conf.get(key, "") or "0"
    if not text.isdecimal():
        raise BundleConfigError(f"--conf {key} {text[:40]}", remedy="give a whole number, 0 or more")
    return int(text)

"""A route's model, loaded: the Predictor that computes, and the Algorithm that signs the results."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from sonodistill import __version__
from sonodistill.dicom.algorithm import ABNORMAL, LESION, Algorithm, Segment
from sonodistill.dicom.errors import ServiceConfigError
from sonodistill.dicom.settings import MATCHED, RouteSettings
from sonodistill.errors import WeightsError
from sonodistill.files import sha256
from sonodistill.inference.predictor import Predictor

_LABEL = 64


@dataclass(frozen=True, slots=True)
class Model:
    """A route, ready to compute.

    Attributes:
        rule: of the configuration.
        predictor: a segmenter.
        algorithm: what the results say of it.
    """

    rule: RouteSettings
    predictor: Predictor
    algorithm: Algorithm


def load_model(rule: RouteSettings, *, threads: int = 0) -> Model:
    """Load and warm up a route's model.

    Errors: WeightsError (the file is not the one the rule names, or no segmenter), ServiceConfigError (codes for a
        label that the model does not have), and those of ``Predictor``.
    """
    digest = weights_digest(rule.model)
    if rule.sha256 and rule.sha256.lower() != digest:
        raise WeightsError(
            f"its SHA-256 is {digest}, the route {rule.name} asks for {rule.sha256.lower()[:64]}",
            path=rule.model,
            remedy="copy the right file, or set the route's sha256",
        )
    predictor = Predictor(
        rule.model,
        runtime=rule.runtime,
        precision=rule.precision,
        threads=threads,
        batch_size=rule.batch_size,
        threshold=rule.threshold,
    )
    if predictor.kind != "segmenter":
        raise WeightsError(
            f"it is a {predictor.kind}; the DICOM outputs are made of masks",
            path=rule.model,
            remedy="give a segmentation model",
        )
    unknown = [label for label in rule.segments if label not in predictor.labels]
    if unknown:
        labels = ", ".join(predictor.labels)
        raise ServiceConfigError(
            f"route {rule.name} has codes for {', '.join(unknown)}; the model's labels are {labels}"
        )
    return Model(rule, predictor, _algorithm(rule, predictor, digest))


def weights_digest(path: Path) -> str:
    """Hex SHA-256 of a model; of OpenVINO's pair of files, that of both digests."""
    beside = path.with_suffix(".bin")
    if path.suffix.lower() == ".xml" and beside.is_file():
        return hashlib.sha256((sha256(path) + sha256(beside)).encode()).hexdigest()
    return sha256(path)


def service_digest(rules: Sequence[RouteSettings]) -> str:
    """Hex SHA-256 of all rules and weights: an instance is computed once for each such state of the service."""
    # What was refused is to be computed when the rule only warns from now on; digests of rules as before stay.
    strict = ({} if rule.unfamiliar == "warn" else {"unfamiliar": rule.unfamiliar} for rule in rules)
    said = [
        {**_settings(rule), **_matching(rule), **more, "weights": weights_digest(rule.model)}
        for rule, more in zip(rules, strict, strict=True)
    ]
    return hashlib.sha256(json.dumps([__version__, said], sort_keys=True).encode()).hexdigest()


def _algorithm(rule: RouteSettings, predictor: Predictor, digest: str) -> Algorithm:
    segments = []
    for label in predictor.labels:
        codes = rule.segments.get(label)
        category = codes.category if codes and codes.category else ABNORMAL
        kind = codes.type if codes and codes.type else LESION
        segments.append(Segment(label[:_LABEL], category, kind, codes.anatomy if codes else None))
    runtime = predictor.runtime
    info = runtime.info
    return Algorithm(
        name=rule.name,
        version=__version__,
        weights_sha256=digest,
        segments=tuple(segments),
        settings=_settings(rule),
        software=(f"SonoDistill {__version__}", _package(runtime.name), f"pydicom {version('pydicom')}"),
        licence=info.weights.licence_notice if info else "",
    )


def _settings(rule: RouteSettings) -> dict[str, Any]:
    """What decides the result besides the weights, as the configuration has it."""
    return {
        "name": rule.name,
        "runtime": rule.runtime,
        "precision": rule.precision,
        "threshold": rule.threshold,
        "segments": {label: asdict(codes) for label, codes in rule.segments.items()},
        "outputs": asdict(rule.outputs),
    }


def _matching(rule: RouteSettings) -> dict[str, Any]:
    return {name: list(getattr(rule, name)) for name in MATCHED}


def _package(runtime: str) -> str:
    package = runtime.removesuffix("-compile")
    try:
        return f"{package} {version(package)}"
    except PackageNotFoundError:
        return package

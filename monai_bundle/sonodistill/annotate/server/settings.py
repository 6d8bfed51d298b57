"""What the annotation server is started with, and everything that can be wrong with it."""

from __future__ import annotations

import socket
from collections.abc import Mapping
from dataclasses import dataclass, field
from importlib.util import find_spec
from pathlib import Path
from urllib.parse import parse_qsl

from sonodistill import home, models
from sonodistill.annotate.server.tokens import Tokens
from sonodistill.errors import BundleConfigError, UnreadableFileError


@dataclass(frozen=True, slots=True)
class Serving:
    """What a user decides.

    Attributes:
        studies: folder, or URL of a DICOMweb service.
        work: folder of labels, models and logs.
        host, port: to listen at; port 0 takes a free one.
        models: model -> weights.
        labels, classes: names, () for those of the models.
        threads, train_after: see ``workbench.Settings``.
        query, token_file, user: of the DICOMweb service.
        tokens: file of annotators, see ``tokens.Tokens``.
        certificate, key: PEM files of TLS.
        names: of this server in URLs, beside its address.
        app: folder of the app; None for the one of this checkout.
    """

    studies: str
    work: Path
    host: str = "127.0.0.1"
    port: int = 8000
    models: dict[str, Path] = field(default_factory=dict)
    labels: tuple[str, ...] = ()
    classes: tuple[str, ...] = ()
    threads: int = 0
    train_after: int = 0
    query: str = ""
    token_file: Path | None = None
    user: str = ""
    tokens: Path | None = None
    certificate: Path | None = None
    key: Path | None = None
    names: tuple[str, ...] = ()
    app: Path | None = None

    @property
    def remote(self) -> bool:
        """Whether the studies are in a PACS."""
        return self.studies.startswith(("http://", "https://"))


def check(serving: Serving) -> Path:
    """Everything that can be wrong before the server is imported, which takes a while; the folder of the app.

    Errors: BundleConfigError, UnreadableFileError, WeightsError, ServiceConfigError: each names what is wrong.
    """
    from sonodistill.dicom.config_checks import is_loopback

    if find_spec("monailabel") is None:
        raise BundleConfigError(
            "MONAI Label is not installed",
            remedy="pip install 'sonodistill[label]' (in a checkout: pip install -e '.[label]'), Python 3.10 to 3.12",
        )
    app = app_folder(serving.app)
    if not is_loopback(serving.host) and None in (serving.tokens, serving.certificate, serving.key):
        raise BundleConfigError(
            f"other machines may reach {serving.host}, so annotators have to be known and the connection encrypted",
            remedy="give --tokens FILE --tls-cert FILE --tls-key FILE, or leave --host out",
        )
    if serving.tokens is not None:
        Tokens(serving.tokens)
    if (serving.certificate is None) != (serving.key is None):
        raise BundleConfigError("TLS needs a certificate and its key", remedy="give --tls-cert and --tls-key")
    if serving.certificate is not None:
        from sonodistill.dicom.settings import Tls
        from sonodistill.dicom.tls import server_context

        server_context(Tls(certificate=serving.certificate, key=serving.key))
    parse_query(serving.query)
    _check_studies(serving)
    _check_port(serving)
    _check_models(serving.models)
    return app


NO_MODEL = "none"


def models_of(
    given: Mapping[str, str | None], work: Path, labels: tuple[str, ...] = (), classes: tuple[str, ...] = ()
) -> dict[str, Path]:
    """The weights to begin with, by model: those given, and the shipped ones for the rest.

    A shipped one is left out where the folder of work has versions of that model already, or where other labels or
    classes are asked for than it has. Without one for the embedding, the encoder of another model is taken for it.

    Args:
        given: model -> path, name of a shipped model, "none", or None for what is shipped.
        work: folder of the models' versions.
        labels, classes: asked for; () for those of the models.

    Errors: WeightsError for an unknown name.
    """
    found = {name: models.path_of(text).resolve() for name, text in given.items() if text not in (None, NO_MODEL)}
    wanted = {models.SEGMENTATION: labels, models.CLASSIFICATION: classes}
    for name in (name for name, text in given.items() if text is None):
        if name == models.EMBEDDING and any(given.get(one) for one in wanted):
            continue  # the encoder of what was given
        shipped = models.catalogue().get(models.DEFAULTS[name])
        path = models.default(name, torch=True)
        fits = shipped is not None and wanted.get(name, ()) in ((), shipped.labels)
        if path is not None and fits and not (work / "models" / name / "current.json").exists():
            found[name] = path.resolve()
    return found


def app_folder(given: Path | None = None) -> Path:
    """Where the app for MONAI Label lies: beside the bundle in a checkout. Errors: BundleConfigError."""
    app = given or home.label_app()
    if not (app / "main.py").is_file():
        raise BundleConfigError(
            "the app for MONAI Label is not here", path=app, remedy="install from a checkout, or give --app FOLDER"
        )
    return app.resolve()


def _check_studies(serving: Serving) -> None:
    if serving.remote:
        from sonodistill.dicom.web import Client, read_token

        Client(serving.studies, token_file=serving.token_file, user=serving.user)
        if serving.token_file is not None:
            read_token(serving.token_file)
    elif not Path(serving.studies).is_dir():
        raise UnreadableFileError(
            "there is no such folder of studies", path=serving.studies, remedy="give --studies FOLDER or a DICOMweb URL"
        )


def _check_port(serving: Serving) -> None:
    family = socket.AF_INET6 if ":" in serving.host else socket.AF_INET
    try:
        with socket.socket(family) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind((serving.host, serving.port))
    except OSError as error:
        raise BundleConfigError(
            f"cannot listen at {serving.host} port {serving.port} ({error.strerror or error})",
            remedy="end the server that does, or give another --port",
        ) from None


def _check_models(given: dict[str, Path]) -> None:
    for path in given.values():
        if not path.is_file():
            raise UnreadableFileError("there is no such file of weights", path=path)
    if given:
        from sonodistill.annotate.training.version_files import kind_of
        from sonodistill.annotate.training.versions import KINDS
        from sonodistill.errors import WeightsError

        for name, path in given.items():
            # The encoder for the embedding is taken out of whatever holds one.
            kind, wanted = kind_of(path)[0], KINDS[name]
            if kind not in wanted and name != "embedding":
                raise WeightsError(f"holds a {kind}, not a {' or '.join(wanted)}", path=path)


def parse_query(text: str) -> dict[str, str]:
    """DICOMweb search parameters as in a URL. Errors: BundleConfigError."""
    try:
        return dict(parse_qsl(text, strict_parsing=True)) if text else {}
    except ValueError:
        raise BundleConfigError(f"{text[:60]!r} is no query", remedy="as in a URL: ModalitiesInStudy=US") from None

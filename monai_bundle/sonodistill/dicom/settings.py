"""What can be set in the service's configuration file, each with its default; ``config.read_settings`` reads one."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from sonodistill.dicom.algorithm import Code


@dataclass(frozen=True, slots=True)
class Tls:
    """Certificates, as PEM files.

    Attributes:
        certificate, key: our own.
        authority: who must have signed the other side's certificate; for a server, giving it asks clients for one.
    """

    certificate: Path | None = None
    key: Path | None = None
    authority: Path | None = None


@dataclass(frozen=True, slots=True)
class Service:
    """Where the service keeps its state, and its bounds.

    Attributes:
        spool: folder of the queue; it holds patient data, and nobody else may read it.
        reserve_gb: nothing is taken while the disk has less free space than this ...
        max_used_percent: ... or is fuller than this.
        max_file_mb: larger files are refused.
        max_attempts: of computing, before a job is dead.
        delivery_attempts: of sending, before a delivery is dead; with the default waits a destination may be down for
            two days.
        retry_seconds: wait after the first failed attempt; it doubles with each up to an hour, and has jitter.
        keep_days: how long the record of a finished job is kept, by which a second sending is known.
        decode_memory_mb, decode_seconds: limits of the process that decodes a file.
        threads: of the inference; 0 lets the runtime choose.
    """

    spool: Path = Path("sonodistill-spool")
    reserve_gb: float = 5.0
    max_used_percent: float = 95.0
    max_file_mb: int = 1024
    max_attempts: int = 5
    delivery_attempts: int = 60
    retry_seconds: float = 10.0
    keep_days: float = 30.0
    decode_memory_mb: int = 2048
    decode_seconds: int = 300
    threads: int = 0


@dataclass(frozen=True, slots=True)
class Scp:
    """C-STORE from modalities and PACSs.

    Attributes:
        ae_title: ours; calls to another are rejected.
        host, port: to listen at.
        allow: calling AE titles that may send, each optionally with its address, "PACS@10.0.0.5"; others are rejected.
        max_associations: at once.
        tls: with an authority, only clients with a certificate may connect.
        memory_mb: address space of the receiving process in MiB, 768 or more: it reserves about 500.
    """

    allow: tuple[str, ...]
    ae_title: str = "SONODISTILL"
    host: str = "127.0.0.1"
    port: int = 11112
    max_associations: int = 8
    tls: Tls | None = None
    memory_mb: int = 1024


@dataclass(frozen=True, slots=True)
class Watch:
    """A folder whose files are taken.

    Attributes:
        folder: searched with its subfolders; links are not followed.
        quiet_seconds: a file is taken when it has not changed for so long.
        poll_seconds: between two looks.
        remove: whether a file is removed once it is a job; otherwise it stays, and is known the next time.
    """

    folder: Path
    quiet_seconds: float = 2.0
    poll_seconds: float = 1.0
    remove: bool = False


@dataclass(frozen=True, slots=True)
class Pull:
    """A DICOMweb server that is asked for new instances.

    Attributes:
        url: of the service, "https://pacs.example/dicom-web".
        token_file: file with a bearer token, or with the password of ``user``.
        user: for HTTP Basic authentication.
        tls: our certificate, and the authority that signed the server's.
        query: attributes to search studies by, such as {"ModalitiesInStudy" = "US"}.
        days: studies of today and the days before are looked at.
        poll_seconds: between two looks.
        frames_per_request: of a clip.
    """

    url: str
    token_file: Path | None = None
    user: str = ""
    tls: Tls | None = None
    query: dict[str, str] = field(default_factory=lambda: {"ModalitiesInStudy": "US"})
    days: int = 1
    poll_seconds: float = 30.0
    frames_per_request: int = 16


@dataclass(frozen=True, slots=True)
class Http:
    """Health, metrics, and STOW-RS for those who send by HTTP.

    Attributes:
        host, port: to listen at.
        token_file: file with the bearer token that every request but /health/live has to carry.
        tls: as for the SCP.
        stow: whether POST /studies is answered.
    """

    host: str = "127.0.0.1"
    port: int = 8043
    token_file: Path | None = None
    tls: Tls | None = None
    stow: bool = False


@dataclass(frozen=True, slots=True)
class DestinationSettings:
    """Where results go.

    Attributes:
        name: in messages and in the queue.
        kind: "dimse" (C-STORE), "stow" (STOW-RS) or "folder".
        host, port, ae_title, calling_ae_title: dimse: the other side's, and ours.
        url, token_file, user: stow, as for a Pull.
        folder: folder.
        tls: dimse and stow.
        timeout_seconds: without an answer.
    """

    name: str
    kind: Literal["dimse", "stow", "folder"]
    host: str = ""
    port: int = 104
    ae_title: str = ""
    calling_ae_title: str = "SONODISTILL"
    url: str = ""
    token_file: Path | None = None
    user: str = ""
    folder: Path | None = None
    tls: Tls | None = None
    timeout_seconds: float = 30.0


@dataclass(frozen=True, slots=True)
class SegmentSettings:
    """What a channel of a model shows, in codes; see :class:`sonodistill.dicom.algorithm.Segment`."""

    category: Code | None = None
    type: Code | None = None
    anatomy: Code | None = None


@dataclass(frozen=True, slots=True)
class Outputs:
    """Which objects are made.

    Attributes:
        segmentation: "binary", "fractional" (probabilities), "labelmap" (few receivers know it) or "none".
        report: structured report of the measured structures.
        preview: "none", "gsps" (outlines to lay over the image) or "sc" (a picture with the outlines, which repeats
            pixels of the source).
    """

    segmentation: Literal["binary", "fractional", "labelmap", "none"] = "binary"
    report: bool = True
    preview: Literal["none", "gsps", "sc"] = "none"


@dataclass(frozen=True, slots=True)
class RouteSettings:
    """A rule: instances that match all it names go to its model; the first rule that matches is taken.

    Texts are compared without regard to case, and may hold * and ?.

    Attributes:
        name: in messages, and of the algorithm in the results.
        model: exported model (.onnx, .xml), checkpoint (.safetensors) or name of a shipped one; sha256, where given,
            has to be its digest.
        sop_class: "still", "cine" or a SOP class UID.
        body_part: Body Part Examined (0018,0015).
        series_description: Series Description (0008,103E).
        study_description: Study Description (0008,1030).
        transducer: Transducer Type (0018,6031) or Transducer Data (0018,5010).
        manufacturer: Manufacturer (0008,0070).
        everything: has to be said where a rule names nothing to match.
        runtime, precision, threshold, batch_size: of the Predictor.
        segments: codes of the model's labels, by label.
        unfamiliar: what becomes of an image of which half the frames or more are unlike those that the model was made
            on: "warn" says so beside the results, "refuse" makes none. A model without a warning score never does.
        outputs: which objects are made.
        destinations: names; all of them by default.
    """

    name: str
    model: Path
    sha256: str = ""
    sop_class: tuple[str, ...] = ()
    body_part: tuple[str, ...] = ()
    series_description: tuple[str, ...] = ()
    study_description: tuple[str, ...] = ()
    transducer: tuple[str, ...] = ()
    manufacturer: tuple[str, ...] = ()
    everything: bool = False
    runtime: str = "auto"
    precision: str = "fp32"
    threshold: float = 0.5
    batch_size: int = 1
    segments: dict[str, SegmentSettings] = field(default_factory=dict)
    unfamiliar: Literal["warn", "refuse"] = "warn"
    outputs: Outputs = field(default_factory=Outputs)
    destinations: tuple[str, ...] | None = None


MATCHED = ("sop_class", "body_part", "series_description", "study_description", "transducer", "manufacturer")


@dataclass(frozen=True, slots=True)
class Settings:
    """The whole file."""

    route: tuple[RouteSettings, ...]
    service: Service = field(default_factory=Service)
    scp: Scp | None = None
    watch: tuple[Watch, ...] = ()
    pull: tuple[Pull, ...] = ()
    http: Http | None = None
    destination: tuple[DestinationSettings, ...] = ()

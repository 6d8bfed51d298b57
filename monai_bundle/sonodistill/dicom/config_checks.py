"""What is wrong with settings that are each of the right kind: out of range, not safe, or at odds with others."""

from __future__ import annotations

import ipaddress
from collections import Counter
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from sonodistill.dicom.settings import (
    MATCHED,
    DestinationSettings,
    Http,
    Pull,
    RouteSettings,
    Scp,
    Service,
    Settings,
    Tls,
    Watch,
)
from sonodistill.dicom.source import is_uid

_AE_TITLE, _LO = 16, 64
_DAYS, _HOURS = 36500, 86400
# Least and most of each number.
_BOUNDS: dict[type, dict[str, tuple[float, float]]] = {
    Service: {
        "reserve_gb": (0, 1e6),
        "max_used_percent": (1, 100),
        "max_file_mb": (1, 1 << 16),
        "max_attempts": (1, 1000),
        "delivery_attempts": (1, 10_000),
        "retry_seconds": (0.01, _HOURS),
        "keep_days": (0, _DAYS),
        "decode_memory_mb": (512, 1 << 20),
        "decode_seconds": (1, _HOURS),
        "threads": (0, 1024),
    },
    Scp: {"port": (0, 65535), "max_associations": (1, 256), "memory_mb": (768, 1 << 20)},
    Http: {"port": (0, 65535)},
    Watch: {"quiet_seconds": (0, _HOURS), "poll_seconds": (0.01, _HOURS)},
    Pull: {"days": (0, _DAYS), "poll_seconds": (0.1, _HOURS), "frames_per_request": (1, 10_000)},
    DestinationSettings: {"port": (1, 65535), "timeout_seconds": (0.1, _HOURS)},
    RouteSettings: {"threshold": (0, 1), "batch_size": (1, 1024)},
}
_NEEDS = {"dimse": ("host", "ae_title"), "stow": ("url",), "folder": ("folder",)}


def problems_of(settings: Settings) -> list[str]:
    """Everything that cannot work, or would let strangers in, one sentence each."""
    found = [problem for where, table in _tables(settings) for problem in _out_of_range(where, table)]
    found += [problem for each in settings.destination for problem in _destination(each)]
    found += [problem for each in settings.pull for problem in _web(f"pull {each.url}", each)]
    found += [problem for rule in settings.route for problem in _route(rule, settings)]
    if not settings.route:
        found.append("there is no route: add a [[route]] with a model")
    found += _twice("destination", (each.name for each in settings.destination))
    found += _twice("route", (each.name for each in settings.route))
    return [*found, *_unsafe(settings), *_callers(settings.scp), *_circles(settings)]


def problems_of_service(settings: Settings) -> list[str]:
    """What is wrong with settings that a service is to run by, and not only files once: nothing in, or nothing out."""
    found = []
    if not (settings.scp or settings.watch or settings.pull or (settings.http and settings.http.stow)):
        found.append("there is no way in: add scp, [[watch]], [[pull]], or http with stow = true")
    if not settings.destination:
        found.append("there is no destination: add a [[destination]], or the results go nowhere")
    return found


def is_loopback(host: str) -> bool:
    """Whether an address is this machine's own, reached from it alone; but for "localhost", no name is one."""
    if host.lower() == "localhost":
        return True
    try:
        found = ipaddress.ip_address(host)
    except ValueError:
        return False
    return bool((getattr(found, "ipv4_mapped", None) or found).is_loopback)


def _tables(settings: Settings) -> Iterator[tuple[str, Any]]:
    """(name, settings) of all that hold numbers."""
    yield "service.", settings.service
    yield from ((f"{name}.", getattr(settings, name)) for name in ("scp", "http") if getattr(settings, name))
    for name in ("watch", "pull", "destination", "route"):
        yield from ((f"{name}[{at}].", each) for at, each in enumerate(getattr(settings, name)))


def _out_of_range(where: str, table: Any) -> Iterator[str]:
    for name, (least, most) in _BOUNDS[type(table)].items():
        if not least <= getattr(table, name) <= most:  # NaN neither
            yield f"{where}{name} has to be between {least:.15g} and {most:.15g}, not {getattr(table, name):g}"


def _destination(each: DestinationSettings) -> Iterator[str]:
    yield from (f"destination {each.name} needs {name}" for name in _NEEDS[each.kind] if not getattr(each, name))
    if each.kind == "dimse":
        yield from (_no_title(title) for title in (each.ae_title, each.calling_ae_title) if title and _bad(title))
    if each.kind == "stow" and each.url:
        yield from _web(f"destination {each.name}", each)


def _web(where: str, each: DestinationSettings | Pull) -> Iterator[str]:
    """Of a DICOMweb server."""
    try:
        parts = urlsplit(each.url)
        usable, host = parts.scheme in ("http", "https") and parts.port != 0, parts.hostname or ""
    except ValueError:
        usable, host = False, ""
    if not usable or not host:
        yield f"{where}: url has to be http(s)://host[:port]/path"
    elif parts.scheme == "http" and each.tls is not None:
        yield f"{where}: tls is given, and the url is http"
    elif parts.scheme == "http" and each.token_file is not None and not is_loopback(host):
        yield f"{where}: a token is sent over https only"
    if each.user and each.token_file is None:
        yield f"{where}: user needs token_file, with the password"
    if ":" in each.user or not each.user.isprintable():
        yield f"{where}: user has no colon, and printable characters only"


def _route(rule: RouteSettings, settings: Settings) -> Iterator[str]:
    if not (rule.name.strip() and len(rule.name) <= _LO and rule.name.isprintable()):
        yield f"route {rule.name!r:.80}: a name has 1 to {_LO} printable characters"
    if not rule.everything and not any(getattr(rule, name) for name in MATCHED):
        yield f"route {rule.name} matches nothing: name {', '.join(MATCHED)}, or everything = true"
    for text in rule.sop_class:
        if text not in ("still", "cine") and not is_uid(text):
            yield f"route {rule.name}: sop_class {text!r:.80} is neither still, cine nor a UID"
    for label, codes in rule.segments.items():
        for code in filter(None, (codes.category, codes.type, codes.anatomy)):
            if not all(text.strip() for text in (code.value, code.scheme, code.meaning)):
                yield f"route {rule.name}: a code of segment {label!r:.80} has an empty value, scheme or meaning"
    names = [each.name for each in settings.destination]
    yield from (f"route {rule.name}: no destination {name}" for name in rule.destinations or () if name not in names)
    if rule.destinations == ():
        yield f"route {rule.name}: destinations is empty, its results would go nowhere"
    if not rule.model.is_file():
        yield f"route {rule.name}: there is no file {rule.model}"


def _twice(what: str, names: Iterable[str]) -> list[str]:
    return [f"{what} {name}: the name is used twice" for name, count in sorted(Counter(names).items()) if count > 1]


def _unsafe(settings: Settings) -> Iterator[str]:
    """What would let strangers in."""
    scp, http = settings.scp, settings.http
    if scp is not None and not is_loopback(scp.host) and (scp.tls is None or scp.tls.authority is None):
        yield f"scp.host {scp.host} is not loopback: that needs scp.tls with certificate, key and authority"
    if http is not None and not is_loopback(http.host) and (http.token_file is None or http.tls is None):
        yield f"http.host {http.host} is not loopback: that needs http.token_file and http.tls"
    if http is not None and http.stow and http.token_file is None:
        yield "http.stow needs http.token_file"
    servers: tuple[tuple[str, Tls | None], ...] = (
        ("scp", scp.tls if scp else None),
        ("http", http.tls if http else None),
    )
    for name, tls in servers:
        if tls is not None and (tls.certificate is None or tls.key is None):
            yield f"{name}.tls needs certificate and key"


def _callers(scp: Scp | None) -> Iterator[str]:
    if scp is None:
        return
    if not scp.allow:
        yield "scp.allow is empty: name the AE titles that may send"
    if _bad(scp.ae_title):
        yield _no_title(scp.ae_title)
    for text in scp.allow:
        title, at, address = text.partition("@")
        if _bad(title):
            yield _no_title(title)
        try:
            ipaddress.ip_network(address.strip() if at else "::", strict=False)
        except ValueError:
            yield f'scp.allow: {address!r:.40} is no IP address or network: write "TITLE@10.0.0.5"'


def _circles(settings: Settings) -> Iterator[str]:
    """What would be watched although the service itself writes it."""
    ours = [("the spool", settings.service.spool)]
    ours += [(f"destination {each.name}", each.folder) for each in settings.destination if each.folder is not None]
    for watched in settings.watch:
        yield from (f"watch {watched.folder} holds {name}" for name, path in ours if _holds(watched.folder, path))


def _holds(folder: Path, path: Path) -> bool:
    folder, path = folder.resolve(), path.resolve()
    return folder == path or folder in path.parents


def _bad(title: str) -> bool:
    """Whether it is no AE title (PS3.5 6.2)."""
    return not (
        title.strip() and len(title) <= _AE_TITLE and title.isascii() and title.isprintable() and "\\" not in title
    )


def _no_title(title: str) -> str:
    return f"{title!r:.40} is no AE title"

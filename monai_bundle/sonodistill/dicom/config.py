"""The service's configuration file (TOML): every setting with its default, every mistake reported at once."""

from __future__ import annotations

import ipaddress
import sys
import types
from dataclasses import MISSING, fields, is_dataclass
from pathlib import Path
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

from sonodistill.dicom.errors import ServiceConfigError
from sonodistill.dicom.settings import (
    MATCHED,
    DestinationSettings,
    Http,
    Outputs,
    Pull,
    RouteSettings,
    Scp,
    SegmentSettings,
    Service,
    Settings,
    Tls,
    Watch,
)

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

_MAX_BYTES = 1 << 20
_AE_TITLE = 16

__all__ = [
    "DestinationSettings",
    "Http",
    "Outputs",
    "Pull",
    "RouteSettings",
    "Scp",
    "SegmentSettings",
    "Service",
    "Settings",
    "Tls",
    "Watch",
    "is_loopback",
    "read_settings",
]


def read_settings(path: str | Path) -> Settings:
    """The settings of a file; relative paths in it start at its folder.

    Errors: ServiceConfigError, which lists everything that is wrong.
    """
    path = Path(path)
    try:
        with path.open("rb") as file:
            text = file.read(_MAX_BYTES + 1)
        if len(text) > _MAX_BYTES:
            raise ServiceConfigError(f"a configuration has at most {_MAX_BYTES} bytes", path=path)
        found = tomllib.loads(text.decode("utf-8"))
    except (ValueError, RecursionError) as error:
        raise ServiceConfigError(f"this is no TOML ({str(error)[:200]})", path=path) from error
    problems: list[str] = []
    settings = _made(Settings, found, "", path.resolve().parent, problems)
    if not problems:
        problems += _contradictions(settings)
    if problems:
        raise ServiceConfigError("the configuration cannot be used:\n    " + "\n    ".join(problems), path=path)
    return settings


def is_loopback(host: str) -> bool:
    """Whether an address to listen at is reached from this machine alone."""
    if host.lower() == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def _made(kind: type, found: Any, where: str, base: Path, problems: list[str]) -> Any:
    """A dataclass from a table; what is wrong is added to ``problems``."""
    if not isinstance(found, dict):
        problems.append(f"{where.rstrip('.')} has to be a table")
        return None
    hints = get_type_hints(kind)
    known = {item.name: item for item in fields(kind)}
    problems += [f"{where}{name}: there is no such setting" for name in found if name not in known]
    values = {}
    for name, item in known.items():
        if name in found:
            values[name] = _value(hints[name], found[name], f"{where}{name}", base, problems)
        elif item.default is MISSING and item.default_factory is MISSING:
            problems.append(f"{where}{name} is missing")
            values[name] = None
    return kind(**values)


def _value(kind: Any, found: Any, where: str, base: Path, problems: list[str]) -> Any:
    origin, arguments = get_origin(kind), get_args(kind)
    if origin in (Union, types.UnionType):
        return _value(next(each for each in arguments if each is not type(None)), found, where, base, problems)
    if origin is Literal:
        if found in arguments:
            return found
        problems.append(f"{where} has to be one of {', '.join(arguments)}")
    elif origin is tuple:
        items = found if isinstance(found, list) else [found]
        return tuple(_value(arguments[0], each, f"{where}[{at}]", base, problems) for at, each in enumerate(items))
    elif origin is dict:
        if isinstance(found, dict):
            return {
                str(key): _value(arguments[1], each, f"{where}.{key}", base, problems) for key, each in found.items()
            }
        problems.append(f"{where} has to be a table")
    elif is_dataclass(kind):
        return _made(kind, found, f"{where}.", base, problems)  # type: ignore[arg-type]
    elif kind is Path:
        if isinstance(found, str) and found and "\0" not in found:
            return base / Path(found).expanduser()
        problems.append(f"{where} has to be a path")
    elif kind is float and isinstance(found, (int, float)) and not isinstance(found, bool):
        return float(found)
    elif isinstance(found, kind) and not (kind is int and isinstance(found, bool)):
        return found
    else:
        problems.append(f"{where} has to be {kind.__name__}, not {found!r:.40}")
    return None


def _contradictions(settings: Settings) -> list[str]:
    problems = [*_unsafe(settings), *_out_of_range(settings)]
    names = [each.name for each in settings.destination]
    problems += [f"destination {name}: the name is used twice" for name in sorted(set(names)) if names.count(name) > 1]
    needs = {"dimse": ("host", "ae_title"), "stow": ("url",), "folder": ("folder",)}
    for each in settings.destination:
        problems += [f"destination {each.name} needs {name}" for name in needs[each.kind] if not getattr(each, name)]
    if not settings.route:
        problems.append("there is no route: add a [[route]] with a model")
    for rule in settings.route:
        if not rule.everything and not any(getattr(rule, name) for name in MATCHED):
            problems.append(f"route {rule.name} matches nothing: name {', '.join(MATCHED)}, or everything = true")
        problems += [
            f"route {rule.name}: no destination {name}" for name in rule.destinations or () if name not in names
        ]
        if not rule.model.is_file():
            problems.append(f"route {rule.name}: there is no file {rule.model}")
    return problems


def _unsafe(settings: Settings) -> list[str]:
    """What would let strangers in."""
    problems = []
    scp, http = settings.scp, settings.http
    if scp is not None:
        if not scp.allow:
            problems.append("scp.allow is empty: name the AE titles that may send")
        if not is_loopback(scp.host) and (scp.tls is None or scp.tls.authority is None):
            problems.append(
                f"scp.host {scp.host} is not loopback: that needs scp.tls with certificate, key and authority"
            )
    if http is not None and not is_loopback(http.host) and (http.token_file is None or http.tls is None):
        problems.append(f"http.host {http.host} is not loopback: that needs http.token_file and http.tls")
    if http is not None and http.stow and http.token_file is None:
        problems.append("http.stow needs http.token_file")
    servers = ("scp", scp.tls if scp else None), ("http", http.tls if http else None)
    for name, tls in servers:
        if tls is not None and (tls.certificate is None or tls.key is None):
            problems.append(f"{name}.tls needs certificate and key")
    for pull in settings.pull:
        if pull.token_file is not None and not pull.url.startswith("https://") and not _local_url(pull.url):
            problems.append(f"pull {pull.url}: a token is sent over https only")
    for each in settings.destination:
        if each.token_file is not None and not each.url.startswith("https://") and not _local_url(each.url):
            problems.append(f"destination {each.name}: a token is sent over https only")
    return problems


def _local_url(url: str) -> bool:
    from urllib.parse import urlsplit

    try:
        return is_loopback(urlsplit(url).hostname or "")
    except ValueError:
        return False


def _out_of_range(settings: Settings) -> list[str]:
    service = settings.service
    checks = [
        (service.max_attempts >= 1, "service.max_attempts has to be at least 1"),
        (service.delivery_attempts >= 1, "service.delivery_attempts has to be at least 1"),
        (service.retry_seconds > 0, "service.retry_seconds has to be positive"),
        (service.reserve_gb >= 0, "service.reserve_gb cannot be negative"),
        (0 < service.max_used_percent <= 100, "service.max_used_percent is a percentage"),
        (service.max_file_mb > 0, "service.max_file_mb has to be positive"),
        (service.decode_memory_mb >= 256, "service.decode_memory_mb: decoders need 256 and more"),
        (service.decode_seconds > 0, "service.decode_seconds has to be positive"),
    ]
    for title in (*([settings.scp.ae_title] if settings.scp else ()), *_titles(settings)):
        checks.append(
            (0 < len(title) <= _AE_TITLE and title.isascii() and "\\" not in title, f"{title!r:.40} is no AE title")
        )
    ports = [each.port for each in (settings.scp, settings.http, *settings.destination) if each is not None]
    checks += [(0 <= port < 1 << 16, f"{port} is no port") for port in ports]
    return [text for holds, text in checks if not holds]


def _titles(settings: Settings) -> list[str]:
    given = [
        name for each in settings.destination if each.kind == "dimse" for name in (each.ae_title, each.calling_ae_title)
    ]
    allowed = [text.partition("@")[0] for text in settings.scp.allow] if settings.scp else []
    return [*given, *allowed]

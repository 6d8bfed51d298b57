"""The service's configuration file (TOML): every setting with its default, every mistake reported at once."""

from __future__ import annotations

import sys
import types
from dataclasses import MISSING, fields, is_dataclass, replace
from pathlib import Path
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

from sonodistill import models
from sonodistill.dicom.config_checks import is_loopback, problems_of, problems_of_service
from sonodistill.dicom.errors import ServiceConfigError
from sonodistill.dicom.settings import (
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
    "read_service",
    "read_settings",
]


def read_settings(path: str | Path, base: str | Path | None = None) -> Settings:
    """The settings of a file; relative paths in it start at ``base``, which is its folder where none is given.

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
    base = Path(base or path.resolve().parent)
    settings = _made(Settings, found, "", base, problems)
    _refuse(problems, path)
    settings = replace(settings, route=tuple(_with_model(rule, base) for rule in settings.route))
    _refuse(problems_of(settings), path)
    return settings


def read_service(path: str | Path) -> Settings:
    """As ``read_settings``, of a file that a service is to run by: it has a way in, and its results go somewhere."""
    settings = read_settings(path)
    _refuse(problems_of_service(settings), Path(path))
    return settings


def _with_model(rule: RouteSettings, base: Path) -> RouteSettings:
    """The rule with the file of its model, where it has the name of a shipped one and no file lies there."""
    named = rule.model.parent == base and not rule.model.exists()
    shipped = models.catalogue().get(rule.model.name) if named else None
    return rule if shipped is None else replace(rule, model=models.path_of(shipped.name))


def _refuse(problems: list[str], path: Path) -> None:
    if problems:
        raise ServiceConfigError("the configuration cannot be used:\n    " + "\n    ".join(problems), path=path)


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

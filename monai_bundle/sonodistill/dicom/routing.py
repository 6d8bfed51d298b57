"""Which model an instance goes to: the first rule that matches all it names; what no rule covers is refused."""

from __future__ import annotations

import fnmatch
import re
from collections.abc import Callable, Sequence

from pydicom.dataset import Dataset
from pydicom.multival import MultiValue

from sonodistill.dicom.errors import NoRouteError
from sonodistill.dicom.settings import RouteSettings
from sonodistill.dicom.source import Source

STILL, CINE = "still", "cine"
_CODE = re.compile(r"[A-Z0-9_ ]{1,16}")
_ATTRIBUTES = {
    "body_part": ("BodyPartExamined",),
    "series_description": ("SeriesDescription",),
    "study_description": ("StudyDescription",),
    "transducer": ("TransducerType", "TransducerData"),
    "manufacturer": ("Manufacturer",),
}


def route(source: Source, rules: Sequence[RouteSettings]) -> RouteSettings:
    """The first rule that covers the instance.

    Errors: NoRouteError. It says which rules there are and what kind of instance it is, and quotes no free text of it.
    """
    for rule in rules:
        if covers(rule, source):
            return rule
    kind = CINE if source.frames > 1 else STILL
    names = ", ".join(rule.name for rule in rules)
    raise NoRouteError(
        f"no route covers it: a {kind} of SOP class {source.sop_class}, {_said(source.ds)}; the routes are {names}",
        path=source.path,
        remedy="add a [[route]] for it, or do not send it here",
    )


def covers(rule: RouteSettings, source: Source) -> bool:
    """Whether the instance has one of the values that the rule names, for each attribute that it names."""
    if rule.sop_class and not any(_is_class(name, source) for name in rule.sop_class):
        return False
    for name, keywords in _ATTRIBUTES.items():
        patterns = getattr(rule, name)
        values = [value for keyword in keywords for value in _values(source.ds, keyword)]
        if patterns and not any(_matches(pattern, value) for pattern in patterns for value in values):
            return False
    return True


def _is_class(name: str, source: Source) -> bool:
    kinds: dict[str, Callable[[], bool]] = {STILL: lambda: source.frames == 1, CINE: lambda: source.frames > 1}
    return kinds.get(name, lambda: source.sop_class == name)()


def _matches(pattern: str, value: str) -> bool:
    return fnmatch.fnmatchcase(value.casefold(), pattern.casefold())


def _values(ds: Dataset, keyword: str) -> list[str]:
    value = ds.get(keyword)
    several = value if isinstance(value, (MultiValue, list)) else [value]
    return [str(each).strip() for each in several if each]


def _said(ds: Dataset) -> str:
    """The coded values that routes look at: they come from lists, not from a keyboard."""
    part, transducer = (_values(ds, keyword)[:1] for keyword in ("BodyPartExamined", "TransducerType"))
    texts = [("body part", part), ("transducer type", transducer)]
    return ", ".join(f"{name} {_coded(value[0])}" if value else f"no {name}" for name, value in texts)


def _coded(value: str) -> str:
    """A value as codes are written (PS3.5 6.2 CS); what is not is free text, and not repeated."""
    return value if _CODE.fullmatch(value) else "of another form"

"""Searches of a DICOMweb server (QIDO-RS, PS3.18 10.6): every match once, page after page, within bounds."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from sonodistill.dicom.web import Client, WebError

_LOG = logging.getLogger(__name__)
JSON = "application/dicom+json"
MAX_PAGE_BYTES = 16 << 20
_PAGE = 100
_KEYS = ("0020000D", "0020000E", "00080018")


class AnsweredError(WebError):
    """The server answers, but not with what it was asked for."""


def search(
    client: Client,
    path: str,
    query: Mapping[str, str | int],
    most: int,
    stopped: Callable[[], bool] = lambda: False,
) -> Iterator[dict[str, Any]]:
    """The matches, objects of the DICOM JSON model; a server that gives one page twice is not asked a third time.

    Args:
        client: of the server.
        path: of the search, "/studies" for instance.
        query: its parameters.
        most: matches, after which the log says that there are more.
        stopped: asked before each page; true ends the search.

    Raises:
        AnsweredError: another status than 200 and 204.
        WebError: no answer, or one that is too long or no JSON.
    """
    seen: set[str] = set()
    while len(seen) < most:
        if stopped():
            return
        page, more = _page(client, path, {**query, "limit": _PAGE, "offset": len(seen)})
        before = len(seen)
        for item in page:
            key = "/".join(str(value(item, tag)) for tag in _KEYS)
            if key not in seen:
                seen.add(key)
                yield item
        if len(seen) == before or not (more or len(page) >= _PAGE):
            return
    _LOG.warning("%s has more than %d matches; narrow the search", client.host, most)


def value(item: Mapping[str, Any], tag: str) -> Any:
    """The first value of an attribute of the DICOM JSON model, or None."""
    element = item.get(tag)
    values = element.get("Value") if isinstance(element, dict) else None
    return values[0] if isinstance(values, list) and values else None


def _page(client: Client, path: str, query: Mapping[str, str | int]) -> tuple[list[dict[str, Any]], bool]:
    """The matches of one page, and whether the server warns that there are more (PS3.18 8.3.4.4)."""
    with client.get(path, accept=JSON, query=query) as response:
        if response.status == 204:
            return [], False
        if response.status != 200:
            raise AnsweredError(f"{client.host} answered a search with {response.status}")
        found = response.json(MAX_PAGE_BYTES)
    items = [item for item in found if isinstance(item, dict)] if isinstance(found, list) else []
    return items, "Warning" in response.headers

"""Tokens in requests, and wrong ones counted."""

from __future__ import annotations

import base64
import binascii
import ipaddress
import time
from collections import OrderedDict
from collections.abc import Callable

_MINUTE = 60.0


class Failures:
    """Wrong tokens by client, of the last minute; few clients are remembered, those that failed last."""

    def __init__(self, allowed: int, clients: int = 4096, clock: Callable[[], float] = time.monotonic) -> None:
        self._allowed, self._clients, self._clock = allowed, clients, clock
        self._times: OrderedDict[str, list[float]] = OrderedDict()

    def may_try(self, address: str) -> bool:
        since = self._clock() - _MINUTE
        return sum(time > since for time in self._times.get(_network(address), ())) < self._allowed

    def add(self, address: str) -> None:
        key = _network(address)
        times = self._times.setdefault(key, [])
        times.append(self._clock())
        del times[: -self._allowed]
        self._times.move_to_end(key)
        while len(self._times) > self._clients:
            self._times.popitem(last=False)


def credentials(header: str) -> tuple[str | None, str]:
    """(name, token) of an Authorization header: Bearer, or Basic with the token as the password."""
    kind, _, value = header.partition(" ")
    value = value.strip()
    if kind.lower() == "bearer":
        return None, value
    if kind.lower() == "basic":
        try:
            name, _, token = base64.b64decode(value, validate=True).decode().partition(":")
        except (binascii.Error, ValueError):
            return None, ""
        return name, token
    return None, ""


def _network(address: str) -> str:
    """What one client has: an IPv4 address, or the /64 network of an IPv6 address."""
    try:
        found = ipaddress.ip_address(address)
    except ValueError:
        return ""
    if found.version == 4:
        return str(found)
    return str(ipaddress.ip_network(f"{found}/64", strict=False))

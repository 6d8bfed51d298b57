"""The address of a server and its token: what is taken as one, and where a token may go."""

from __future__ import annotations

import ipaddress
import re
from urllib.parse import urlsplit

from UltrasoundSegmentLib.errors import SegmentError


class AddressError(SegmentError):
    """The address of a server, its token or its certificates cannot be used."""


def checked_token(token: str, url: str) -> str:
    """The token without spaces around it; "" for none. Errors: AddressError."""
    token, parts = token.strip(), urlsplit(url)
    if token and parts.scheme != "https" and not is_loopback(parts.hostname or ""):
        raise AddressError("A token is sent over https, or to this machine: use https:// in the address.")
    if token and not re.fullmatch(r"[\x21-\x7e]{1,4096}", token):
        raise AddressError("The token has spaces or other characters that no token has: copy it again.")
    return token


def checked_url(url: str) -> str:
    """The address without a slash at its end. Errors: AddressError."""
    text = url.strip()
    try:
        parts = urlsplit((text if "://" in text else f"http://{text}").rstrip("/"))
        good = parts.scheme in ("http", "https") and parts.hostname and (parts.port is None or parts.port > 0)
    except ValueError:
        good = False
    if not good or parts.query or parts.fragment or re.search(r"\s", text):
        raise AddressError(f"“{text[:100]}” is no address: it looks like https://server:8000.")
    if parts.username is not None or parts.password is not None:
        raise AddressError("The address holds a name or password: give a token instead.")
    return parts.geturl()


def is_loopback(host: str) -> bool:
    if host.lower() == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def as_name(text: str) -> str:
    """A person's name in the characters that the server takes for one: "Anna B." becomes "Anna-B"."""
    name = re.sub(r"[^A-Za-z0-9_.@-]+", "-", text).strip("-_.@")[:64]
    return f"{name}-annotator" if name == "model" else name

"""Who may annotate: a file of names and tokens."""

from __future__ import annotations

import hashlib
import hmac
import re
import stat
import sys
from pathlib import Path

from sonodistill.annotate.errors import InvalidIdError
from sonodistill.annotate.ids import check_name
from sonodistill.annotate.model import MODEL
from sonodistill.errors import BundleConfigError

SHORTEST = 16
_MAX_BYTES = 1 << 20
_DIGEST = re.compile(r"sha256:(?P<digest>[0-9a-f]{64})")
_REMEDY = f"a line for each: annotator:token, the token of {SHORTEST} printable characters or more, or its sha256:<hex>"


class Tokens:
    """Names of annotators by the digests of their tokens; the tokens themselves are not kept.

    Args:
        path: of a text file with lines ``annotator:token`` or ``annotator:sha256:<hex>``, which only its owner may
            read. Empty lines, and those that begin with ``#``, are left out. An annotator may have several tokens.

    Errors: BundleConfigError, whose message repeats no token.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        self._names: dict[bytes, str] = {}
        for number, line in enumerate(_text(self.path).splitlines(), 1):
            if not line.strip() or line.lstrip().startswith("#"):
                continue
            name, _, token = line.strip().partition(":")
            digest = _digest_in_file(token)
            if digest is None or not _is_person(name):
                raise BundleConfigError(f"line {number} is no annotator with a token", path=path, remedy=_REMEDY)
            if digest in self._names:
                raise BundleConfigError(f"the token of line {number} is there twice", path=path, remedy=_REMEDY)
            self._names[digest] = name
        if not self._names:
            raise BundleConfigError("the file names no annotator", path=path, remedy=_REMEDY)

    def annotator(self, token: str) -> str | None:
        """Whose token it is; None if nobody's. Takes as long for a wrong one as for a right one."""
        asked, found = _digest(token), None
        for digest, name in self._names.items():
            if hmac.compare_digest(digest, asked):
                found = name
        return found


def _text(path: Path) -> str:
    try:
        # Windows has no such bits: there the folder's own rights decide.
        if sys.platform != "win32" and path.stat().st_mode & (stat.S_IRWXG | stat.S_IRWXO):
            raise BundleConfigError("others may read the tokens", path=path, remedy=f"chmod 600 {path}")
        with path.open("rb") as file:
            content = file.read(_MAX_BYTES + 1)
        if len(content) > _MAX_BYTES:
            raise BundleConfigError("more than 1 MB is no file of tokens", path=path, remedy=_REMEDY)
        return content.decode()
    except OSError as error:
        raise BundleConfigError(f"the tokens cannot be read ({error.strerror})", path=path) from None
    except UnicodeDecodeError:
        raise BundleConfigError("the tokens are no text", path=path, remedy=_REMEDY) from None


def _digest_in_file(token: str) -> bytes | None:
    if match := _DIGEST.fullmatch(token):
        return bytes.fromhex(match["digest"])
    if token.startswith("sha256:") or len(token) < SHORTEST or any(not 0x21 <= ord(one) <= 0x7E for one in token):
        return None
    return _digest(token)


def _digest(token: str) -> bytes:
    # Tokens are random and long, not passwords that people choose: a slow hash would guard nothing.
    return hashlib.sha256(token.encode("utf-8", "surrogateescape")).digest()


def _is_person(name: str) -> bool:
    try:
        return check_name(name) != MODEL
    except InvalidIdError:
        return False

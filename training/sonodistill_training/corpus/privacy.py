"""Names that can be recognised but not read back: keyed hashes in the place of paths, patients and cases."""

from __future__ import annotations

import hashlib
import hmac
import os
import secrets
from pathlib import Path

import typer

from sonodistill.errors import SonoDistillError

KEY_VARIABLE = "SONODISTILL_KEY_FILE"
_KEY_BYTES = 32
_DIGITS = 20  # 80 bits: two of 10^9 names collide with a probability of 4e-7


class KeyedNames:
    """HMAC-SHA-256 names. Without the key they cannot be guessed, not even from a list of all possible names.

    >>> KeyedNames(b"k" * 32)("group", "patient 7") == KeyedNames(b"k" * 32)("group", "patient 7")
    True
    """

    def __init__(self, key: bytes) -> None:
        if len(key) < _KEY_BYTES:
            raise ValueError(f"a key has at least {_KEY_BYTES} bytes")
        self.key = key

    def __call__(self, *parts: str) -> str:
        """20 hex digits for the parts, which are told apart ("a", "bc" is not "ab", "c")."""
        message = b"".join(len(data).to_bytes(8, "big") + data for data in map(_encoded, parts))
        return hmac.new(self.key, message, hashlib.sha256).hexdigest()[:_DIGITS]


def load_key(path: str | Path | None = None) -> bytes:
    """The key in ``path``, else in the file that SONODISTILL_KEY_FILE names, else in the user's configuration folder.

    A missing file is made, readable by its owner alone. The key is never written beside a corpus: whoever has both
    can test whether a name occurs in it. Keep it to get the same names again.

    Raises:
        SonoDistillError: the file holds fewer than 32 bytes.
    """
    named = path or os.environ.get(KEY_VARIABLE)
    file = Path(named) if named else Path(typer.get_app_dir("sonodistill")) / "corpus.key"
    if not file.is_file():
        file.parent.mkdir(parents=True, exist_ok=True)
        try:
            handle = os.open(file, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        except FileExistsError:  # another process was first
            pass
        else:
            with os.fdopen(handle, "wb") as stream:
                stream.write(secrets.token_bytes(_KEY_BYTES))
    key = file.read_bytes()
    if len(key) < _KEY_BYTES:
        raise SonoDistillError(
            f"a key of {len(key)} bytes; {_KEY_BYTES} are needed", path=file, remedy="name another with --key"
        )
    return key


def _encoded(text: str) -> bytes:
    # File names need not be valid UTF-8.
    return text.encode("utf-8", "surrogateescape")

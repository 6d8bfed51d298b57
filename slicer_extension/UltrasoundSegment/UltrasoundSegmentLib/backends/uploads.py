"""Images that a server keeps for a while because they were sent: its sessions, one for each image, the last few."""

from __future__ import annotations

import logging
from collections import OrderedDict
from collections.abc import Callable
from typing import TypeVar

from UltrasoundSegmentLib.backends.client import Client
from UltrasoundSegmentLib.backends.model import BackendError, Cancel
from UltrasoundSegmentLib.backends.refusal import RefusedError
from UltrasoundSegmentLib.errors import SegmentError

logger = logging.getLogger(__name__)
T = TypeVar("T")
_KEPT = 8


class Uploads:
    """Sessions of MONAI Label: an image is sent once, however often it is clicked on.

    A session ends by itself on the server some time after its last use; the ninth ends the oldest of ours.
    """

    def __init__(self, client: Client) -> None:
        self._client = client
        self._sessions: OrderedDict[str, str] = OrderedDict()

    def use(self, key: str, image: Callable[[], tuple[str, bytes]], ask: Callable[[str], T], cancel: Cancel) -> T:
        """What ``ask`` answers to the id of the session of an image; made when there is none, or it has ended.

        Args:
            key: of the image, the same for the same pixels.
            image: (name of a file, content), called when it has to be sent.
        """
        known = key in self._sessions
        try:
            return ask(self._session(key, image, cancel))
        except RefusedError as error:
            if not known or error.status not in (400, 404, 410, 500):
                raise
        self._sessions.pop(key, None)
        return ask(self._session(key, image, cancel))

    def _session(self, key: str, image: Callable[[], tuple[str, bytes]], cancel: Cancel) -> str:
        if key not in self._sessions:
            while len(self._sessions) >= _KEPT:
                self._end(self._sessions.popitem(last=False)[1], cancel)
            name, content = image()
            made = self._client.json("PUT", "/session/", cancel, files={"files": (name, content)})
            session = made.get("session_id") if isinstance(made, dict) else None
            if not isinstance(session, str) or not 0 < len(session) <= 64:
                raise BackendError("The server keeps no images for clicks: it answered no session.")
            self._sessions[key] = session
        self._sessions.move_to_end(key)
        return self._sessions[key]

    def _end(self, session: str, cancel: Cancel) -> None:
        try:
            self._client.request("DELETE", f"/session/{session}", cancel)
        except SegmentError:
            cancel.check()
            logger.debug("A session had ended by itself.")

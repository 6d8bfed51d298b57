"""Errors of the PACS side: what is refused for good, and what may succeed when it is tried again."""

from __future__ import annotations

import traceback
from pathlib import Path

from sonodistill.errors import SonoDistillError


class ServiceConfigError(SonoDistillError):
    """The configuration of the service cannot work, or is not safe."""


class NoRouteError(SonoDistillError):
    """No routing rule covers the instance."""


class UnfamiliarError(NoRouteError):
    """The model says that it was not made for such images, and its route refuses those."""


class ResultError(SonoDistillError):
    """A result that was written does not say what was found; it is not sent."""


class DeliveryError(SonoDistillError):
    """A destination did not take a result.

    Attributes:
        permanent: whether it will not take it another time either.
    """

    permanent = False


class RefusedDeliveryError(DeliveryError):
    """The destination refused the result for what it is: sending it again changes nothing."""

    permanent = True


class SpoolError(SonoDistillError):
    """The spool cannot be used: another service uses it, it is none, or a newer version wrote it."""


class NoRoomError(SpoolError):
    """The disk of the spool is full: nothing was taken, and it may be sent again later (0xA700, HTTP 507)."""


class LeaseLostError(SonoDistillError):
    """A job or delivery belongs to another by now: what was made of it here is to be thrown away."""


class QueueError(SonoDistillError):
    """A job or delivery is not there, or not in a state that allows what was asked."""


def reason_of(error: BaseException) -> str:
    """Why something failed, for logs and the queue: the message of an error of ours; of others their kind and place.

    What other libraries say may quote values of a file, and those may be the patient's.
    """
    if isinstance(error, SonoDistillError):
        return error.message
    said = f"{type(error).__name__}: {error.strerror}" if isinstance(error, OSError) else type(error).__name__
    frames = [each for each in traceback.extract_tb(error.__traceback__) if "sonodistill" in each.filename]
    return f"{said} ({Path(frames[-1].filename).name}, line {frames[-1].lineno})" if frames else said

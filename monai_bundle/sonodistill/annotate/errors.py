"""Errors of annotation. Each has the HTTP status that a server answers with."""

from __future__ import annotations

from sonodistill.errors import SonoDistillError


class AnnotationError(SonoDistillError):
    """Base: a request that cannot be served."""

    status = 400


class UnknownIdError(AnnotationError):
    """There is no such item, frame, label, annotator, session, model or version."""

    status = 404


class InvalidIdError(AnnotationError):
    """Text that is no id: of other characters, too long, or a path."""


class InvalidLabelError(AnnotationError):
    """A label that does not fit its frame: another shape or type, values that name no label, no image at all."""

    status = 422


class InvalidPromptError(AnnotationError):
    """Clicks, boxes or masks outside the image, or too many."""

    status = 422


class ConflictError(AnnotationError):
    """What is asked for cannot be done now: a training runs already, a newer label is there, nothing to train on."""

    status = 409


class NotTrainedError(AnnotationError):
    """The model asked for has no weights yet."""

    status = 409


class TooLargeError(AnnotationError):
    """More than the limit that the message names."""

    status = 413


class UnreachableError(AnnotationError):
    """The DICOMweb server gives no answer, or none that can be used; it may do better another time."""

    status = 502


class StorageError(AnnotationError):
    """The disk fails, is full, or holds another file than the one that should be there."""

    status = 503

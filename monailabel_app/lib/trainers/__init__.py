"""The trainers of the app, by the class that a config names."""

from lib.trainers.task import Classification, Interactive, Segmentation

__all__ = ["Classification", "Interactive", "Segmentation"]

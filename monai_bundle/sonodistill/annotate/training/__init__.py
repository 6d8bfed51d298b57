"""Trainings from accepted frames, and the versions of models that come of them."""

"""Annotation frame by frame: what can be labelled, the labels, prompts, what to label next, and versions of models.

Nothing here knows MONAI Label or HTTP: the app in ``monailabel_app`` is one user of it.
"""

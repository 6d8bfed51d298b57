"""PACS-style inference: an ultrasound instance in, a segmentation and a structured report back, or a named refusal."""

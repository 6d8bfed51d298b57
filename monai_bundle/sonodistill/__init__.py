"""SonoDistill runtime: ultrasound frames in; masks, classes and embeddings out."""

__version__ = "0.1.0"

"""Frames in; masks, classes and embeddings out."""

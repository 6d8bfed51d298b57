"""What to label next: embeddings of all frames, uncertainty of a small head on them, and strategies that choose."""

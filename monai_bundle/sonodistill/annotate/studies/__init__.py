"""What can be annotated in a folder: items, their frames, uploads."""

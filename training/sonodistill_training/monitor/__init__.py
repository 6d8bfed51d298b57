"""What is watched while an encoder is trained: probes on labelled frames, the health of its features, and its loss."""

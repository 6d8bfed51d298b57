"""From frames to network tensors and back."""

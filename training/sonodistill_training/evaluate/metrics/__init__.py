"""Per-image metrics, metrics of classes, and what can be said of them with confidence."""

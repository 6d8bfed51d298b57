"""How fast DICOM instances come in, are computed, and go out: ``sonodistill bench dicom``."""

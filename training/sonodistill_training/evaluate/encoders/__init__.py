"""Every encoder of both papers, loaded from its own published format."""

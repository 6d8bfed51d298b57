"""Measurements of speed that anyone can repeat: `sonodistill bench NAME`."""

"""Masks from clicks and boxes, and from frame to frame."""

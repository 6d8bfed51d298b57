"""Heads, decoders and whole networks trained on labelled frames."""

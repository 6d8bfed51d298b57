"""Masks of the frames of a cine: kept in MRML, reassembled in 3-D, measured."""

"""Ultrasound frame by frame in 3D Slicer: frames, masks, backends and exports, without Qt."""

"""Thin stand-ins for what slicer-core lacks: PythonQt, CTK and MRML widgets, and the scripted modules' Python layer."""

"""The panel of the UltrasoundSegment module, one section a file; what needs no Qt lies in UltrasoundSegmentLib."""

"""How fast a segmenter learns from frames that a strategy chooses: a simulation in which the labels are known."""

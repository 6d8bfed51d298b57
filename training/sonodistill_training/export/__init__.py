"""Export of trained networks to the formats of other runtimes, each checked on real frames against the original."""

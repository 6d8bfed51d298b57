"""A shipped segmenter on frames that took no part in any choice about it."""

"""Results as tables, ours and the papers'."""

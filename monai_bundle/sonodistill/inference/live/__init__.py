"""Live sources to masks with a stated latency budget: a scanner, a capture device, or a file at its own pace."""

"""What PyTorch computes slowly on a CPU in bfloat16, computed otherwise and as exactly."""

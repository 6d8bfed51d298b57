"""Who computes masks: a MONAI Label server with our app, a stock one, or a process on this machine."""

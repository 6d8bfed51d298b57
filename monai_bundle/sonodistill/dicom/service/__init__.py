"""The service: what comes in, the jobs, what goes out."""

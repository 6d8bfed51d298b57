"""How the annotation server is started, for whom, and what is done without it."""

"""The warning score of a model: fitting it to its own frames, and measuring it on others."""

"""MONAI Label's tasks, datastore and strategies over ``sonodistill.annotate``: adapters and nothing else."""

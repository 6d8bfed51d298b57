"""Models for the folder of the bundle: half the size, checked, with their licences and an index."""

"""What an encoder groups by: organ, data set or scanner."""

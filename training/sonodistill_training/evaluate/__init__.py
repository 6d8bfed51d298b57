"""What an encoder is worth: probes, fine-tuning, statistics, tables and a report."""

"""What an encoder is worth: probes, downstream tasks, metrics."""

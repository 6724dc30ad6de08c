"""Pre-training objectives: a batch in, a dict of losses out."""

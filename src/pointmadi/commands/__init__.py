"""One file per command: its config and its wiring."""

"""State dicts and checkpoints: what they hold, and the checks before any of it is believed."""

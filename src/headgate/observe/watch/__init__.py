"""A training run, followed live: its metrics file read as it grows, and served to one machine's browser."""

"""One part per outsider. Nothing happens at import: an integration acts when its function is called."""

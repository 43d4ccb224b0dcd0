"""Plans: what a machine has, and what a model asks of it."""

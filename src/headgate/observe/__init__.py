"""Looking at routing from outside: metrics, the trace file, and what they say in words."""

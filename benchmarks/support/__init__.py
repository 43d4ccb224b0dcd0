"""What every benchmark shares: timing in interleaved rounds, and a report with all that a figure needs."""

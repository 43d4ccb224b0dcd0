"""The page: one HTML file that shows a trace, or compares two. `docs/page-data.md` says what it reads."""

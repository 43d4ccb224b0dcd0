"""Read the routing that other engines write. `docs/import.md` says which files, and what each hazard leads to."""

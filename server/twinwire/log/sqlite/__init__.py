"""The log in a SQLite file, of one process at a time."""

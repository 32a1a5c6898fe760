"""Programs that measure Twinwire. Each is run by one command and prints a table, or JSON with `--json`."""

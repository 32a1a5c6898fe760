"""The command `twinwire`."""

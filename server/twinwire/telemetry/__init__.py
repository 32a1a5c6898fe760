"""The view of an operator: log lines without secrets, and metrics."""

"""`python -m twinwire`."""

from twinwire.cli import main

main()

"""`python -m twinwire`."""

from twinwire.cli.main import main

main()

#!/bin/sh
# Run the program named by $PROGRAM so that the kernel ends it together with the process that started it:
# puppeteer puts a browser into a session of its own, where no signal to the tests' own group reaches it.
exec setpriv --pdeathsig KILL "$PROGRAM" "$@"

"""Run Autobahn's cases, as kosoku has them, against the server at a URL; print what became of each.

Run in the environment of this folder: `autobahn.py URL CASES…`, where a case may be a pattern such as `9.*`.
"""

from __future__ import annotations

import asyncio
import json
import os
import sys

from kosoku import FailureError, run_fuzzingclient


async def main() -> None:
    url, *cases = sys.argv[1:]
    try:
        results = await run_fuzzingclient(url, cases or None, concurrency=2)
    except FailureError as error:
        results = error.results
    json.dump([[case.case_id, case.behavior.value, case.remote_close_code] for case in results], sys.stdout)
    sys.stdout.flush()
    os._exit(0)  # kosoku has been seen to abort the interpreter's own exit, once it had given all results


if __name__ == "__main__":
    asyncio.run(main())

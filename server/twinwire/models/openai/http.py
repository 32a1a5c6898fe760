"""`httpx`, as the installed OpenAI SDK uses it: httpx below openai 2, its fork httpx2 below openai 3.

Clients, transports, responses and errors have to be those of the SDK's own library. Importing this imports `openai`.
"""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

import openai

if TYPE_CHECKING:
    import httpx2 as httpx
else:
    httpx = sys.modules[openai.DefaultAsyncHttpxClient.__base__.__module__]

__all__ = ["httpx"]

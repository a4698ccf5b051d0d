"""HTTP to our own processes, which no proxy of the environment stands before.

Machines in companies have `HTTP_PROXY` set, and few have 127.0.0.1 in `NO_PROXY`: a proxy would answer that there is no
such service.
"""

import urllib.request
from contextlib import AbstractContextManager
from http.client import HTTPResponse
from typing import Final, cast

_OPENER: Final = urllib.request.build_opener(urllib.request.ProxyHandler({}))


def get(url: str, timeout_seconds: float) -> AbstractContextManager[HTTPResponse]:
    """Ask for `url` without a proxy.

    Args:
        url: An address of ours.
        timeout_seconds: For each step of the exchange.

    Raises:
        OSError: There is no answer, or its status is an error.
        http.client.HTTPException: What answered is no HTTP.
    """
    return cast("HTTPResponse", _OPENER.open(url, timeout=timeout_seconds))

"""Calls of the operator's command to the running server, which alone takes jobs. Blocking."""

from __future__ import annotations

import http.client
import ssl
from typing import Final
from urllib.parse import urlsplit

from xwgrid import wire
from xwgrid.errors import Unavailable
from xwgrid.model import JobId, JobRequest
from xwgrid.wire import JobView

_SECONDS: Final = 60.0


def submit(request: JobRequest, *, url: str, token: str, ca_pem: str) -> JobId:
    """Hand in a job whose inputs are on the server, as the holder of a token.

    Raises the GridError that the server answers with, or Unavailable when it does not answer.
    """
    place = urlsplit(url)
    context = ssl.create_default_context(cadata=ca_pem)
    connection = http.client.HTTPSConnection(place.hostname or "", place.port, timeout=_SECONDS, context=context)
    headers = {"Authorization": f"Bearer {token}", "Content-Type": "application/json"}
    try:
        connection.request("POST", "/v1/jobs", wire.encode(request), headers)
        answer = connection.getresponse()
        body = answer.read()
    except (OSError, http.client.HTTPException) as error:
        raise Unavailable(
            f"the server at {url} does not answer ({error}): start it with `xwgrid-server run`", url=url
        ) from error
    finally:
        connection.close()
    if not 200 <= answer.status < 300:
        raise wire.error_from_body(body, answer.status)
    return wire.decode(body, JobView).id

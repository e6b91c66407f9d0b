"""The API port's site: requests whose bodies go where their route says, and klein's routes made from the table."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Protocol

from klein import Klein
from twisted.internet.defer import Deferred
from twisted.python.failure import Failure
from twisted.web import server
from twisted.web.http import HTTPChannel
from werkzeug.exceptions import HTTPException

from xwgrid.errors import BadInput, NotFound
from xwgrid.model import Seconds
from xwgrid_server import http_answers
from xwgrid_server.accounts import User
from xwgrid_server.http_bodies import AdmittedBody, Body, Head, MemoryBody, StreamingRequest, body_too_large
from xwgrid_server.http_routes import ROUTES, Route, klein_path
from xwgrid_server.http_uploads import Destination, UploadBody, Uploads

# Bodies up to this size are read before their sender is known, and decoded in the reactor's thread.
SMALL_BODY = 64 << 10
IDLE_SECONDS: Seconds = 60.0  # a connection that says nothing for so long is closed


class Api(Protocol):
    """What answers the calls."""

    @property
    def uploads(self) -> Uploads:
        """The uploads in progress."""

    async def authenticate(self, request: ApiRequest) -> User:
        """Return who is calling. Raises Unauthenticated."""

    async def admit_blob(self, request: ApiRequest, digest: str) -> Destination | None:
        """Decide where an upload goes; None: it is here already."""

    async def answer(self, route: Route, request: ApiRequest, path: Mapping[str, str]) -> None:
        """Answer a call of this route."""


class ApiRequest(StreamingRequest, server.Request):
    """A request at the API port."""

    caller: User | None = None

    def choose_body(self, head: Head) -> Body:
        """Let uploads go to the disk, and big messages wait until their sender is known."""
        api = self._api
        found = find(head.method, head.path)
        if found is None:
            return MemoryBody(self, SMALL_BODY)
        route, path = found
        if route.operation == "send_blob":
            return UploadBody(self, api.uploads, lambda: api.admit_blob(self, path["sha256"]))
        if (head.length or 0) > route.body_limit:
            raise body_too_large(route.body_limit)
        if route.body_limit > SMALL_BODY:
            return AdmittedBody(self, route.body_limit, lambda: api.authenticate(self))
        return MemoryBody(self, route.body_limit)

    def respond(self) -> None:
        """Let klein find the route."""
        if "\ufffd" in self.head.path:
            http_answers.refuse(self, _unmounted())  # no route has it, and klein would answer in words of its own
        else:
            server.Request.process(self)

    def getRequestHostname(self) -> bytes:  # noqa: N802  # Twisted's name
        """Return one and the same name: no route asks for another, and strangers write what they like there."""
        return b"localhost"

    def processingFailed(self, reason: Failure) -> Failure:  # noqa: N802  # Twisted's name
        """Answer what nobody foresaw without telling its insides."""
        http_answers.fail(self, reason)
        return reason

    @property
    def _api(self) -> Api:
        api: Api = self.channel.site.api
        return api


class ApiSite(server.Site):
    """The API port's site. HTTP/1.1 only: a request of HTTP/2 has no transport of its own to pause."""

    protocol: Any = HTTPChannel
    requestFactory = ApiRequest  # noqa: N815  # Twisted's name

    def __init__(self, api: Api, reactor: Any, idle_seconds: Seconds = IDLE_SECONDS) -> None:
        self.api = api
        server.Site.__init__(
            self, mounted(api).resource(), reactor=reactor, timeout=idle_seconds, parsePOSTFormSubmission=False
        )

    def acceptableProtocols(self) -> list[bytes]:  # noqa: N802  # Twisted's name
        """Return what TLS may offer."""
        return [b"http/1.1"]

    def log(self, request: Any) -> None:
        """Write no line for each call: what fails is logged where it fails."""


def mounted(api: Api) -> Klein:
    """Return the klein application with every route of the table."""
    app = Klein()
    by_path: dict[str, dict[str, Route]] = {}
    for route in ROUTES:
        by_path.setdefault(klein_path(route), {})[route.method] = route
    for path, methods in by_path.items():
        app.route(path, endpoint=path)(_endpoint(api, methods))

    @app.handle_errors(Exception)
    def refused(request: ApiRequest, failure: Failure) -> bytes:
        # klein finishes the request itself after this, so only the answer's parts are set.
        error = _unmounted() if failure.check(HTTPException) else http_answers.presentable(failure, "routing failed")
        return http_answers.set_refusal(request, error)

    return app


def find(method: str, path: str) -> tuple[Route, Mapping[str, str]] | None:
    """Return the route of a request and the arguments in its path."""
    wanted = {method, "GET"} if method == "HEAD" else {method}
    for route in ROUTES:
        if route.method in wanted and (match := route.pattern.fullmatch(path)):
            return route, match.groupdict()
    return None


def _endpoint(api: Api, methods: Mapping[str, Route]) -> Callable[..., Deferred[None]]:
    def endpoint(request: ApiRequest, **path: str) -> Deferred[None]:
        method = request.head.method
        route = methods.get(method) or (methods.get("GET") if method == "HEAD" else None)
        done = request.notifyFinish().addErrback(lambda _lost: None)
        if route is None:
            allowed = ", ".join(sorted(methods))
            request.responseHeaders.setRawHeaders("Allow", [allowed])
            http_answers.refuse(request, WrongMethod(f"here is no {method[:20]}: use {allowed}"))
        else:
            # What changes something is carried through, although nobody waits for the answer any more.
            request.start(api.answer(route, request, path), shielded=route.method in {"POST", "PUT"})
        return done

    return endpoint


class WrongMethod(BadInput):
    """The address is right and the method is not: the answer's `Allow` says which are."""

    http_status = 405


def _unmounted() -> NotFound:
    return NotFound("there is nothing at this address: GET /v1/openapi.json tells what there is")

"""The OpenAPI document, against the code it is made from and against a running server."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import schemathesis
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from jsonschema_rs import Draft202012Validator
from schemathesis.core.result import Ok
from xwgrid_server import openapi
from xwgrid_server.http_routes import ROUTES
from xwgrid_server.requester_api import RequesterApi

from tests.grid import Grid
from tests.server.callers import Requester, own_job
from xwgrid import wire

COPY = Path(__file__).parents[2] / "docs" / "openapi.json"


@pytest.fixture
def user(web_grid: Grid) -> Iterator[Requester]:
    """A requester of this test's own; whatever jobs came of it are cancelled, so that no other test is given them."""
    with Requester(web_grid) as requester:
        yield requester
        for job in wire.decode(requester.http.get("/v1/jobs?limit=1000").content, wire.JobList).jobs:
            requester.http.post(f"/v1/jobs/{job.id}/cancel")


def test_the_copy_in_docs_is_the_present_one(user: Requester) -> None:
    """docs/openapi.json and what a server tells are what the code makes."""
    text = openapi.text()
    assert COPY.read_text() == text, "run: python -m xwgrid_server.openapi > docs/openapi.json"
    assert user.http.get("/v1/openapi.json").text == text


def test_the_protocol_is_documented() -> None:
    """Every call that docs/protocol.md lists for the API port is in the table, and no other."""
    protocol = (COPY.parent / "protocol.md").read_text()
    section = protocol.partition("## API port")[2].partition("## Volunteer port")[0]
    listed = {
        tuple(line.split("`")[1].split(" "))
        for line in section.splitlines()
        if line.startswith(("| `GET", "| `PUT", "| `POST", "| `HEAD"))
    }
    words = {"sha256": "SHA256", "job": "ID", "number": "NUMBER"}
    routes = {(route.method, route.path.format(**words)) for route in ROUTES if route.path != "/"}
    assert routes == listed


def test_every_route_has_its_method() -> None:
    """The table names a method of the API for every operation, and operations have names of their own."""
    names = [route.operation for route in ROUTES]
    assert len(set(names)) == len(names)
    assert all(callable(getattr(RequesterApi, name)) for name in names)


def resolved(document: dict[str, Any], schema: dict[str, Any]) -> Draft202012Validator:
    """Return a validator for a schema of the document."""
    return Draft202012Validator({**schema, "components": document["components"]})


def test_answers_are_of_the_shape_that_is_told(user: Requester) -> None:
    """What the server answers validates against the schema of its call."""
    document = openapi.document()
    job = user.submit(own_job(count=2)).id
    for route in ROUTES:
        if route.method != "GET" or "sha256" in route.path or route.operation == "watch_job":
            continue
        answer = user.http.get(route.path.format(job=job, number=0))
        contents = document["paths"][route.path]["get"]["responses"]["200"]["content"]
        kind = answer.headers["Content-Type"]
        assert kind in contents
        if kind == "application/json":
            resolved(document, contents[kind]["schema"]).validate(answer.json())
    refused = user.http.get("/v1/jobs/0")
    resolved(document, {"$ref": "#/components/schemas/ErrorBody"}).validate(refused.json())


def test_what_fits_the_document_is_understood(user: Requester) -> None:
    """Calls made up from the document never fail in the server, and their refusals are those that it lists."""
    schema = schemathesis.openapi.from_dict(openapi.document())
    operations = [
        found.ok()
        for found in schema.get_all_operations()
        if isinstance(found, Ok) and found.ok().definition.raw["operationId"] not in {"watch_job", "enrol"}
    ]
    assert len(operations) == len(ROUTES) - 2
    cases = st.one_of([operation.as_strategy() for operation in operations])

    @settings(
        max_examples=150, deadline=None, database=None, phases=[Phase.generate],
        suppress_health_check=list(HealthCheck),
    )  # fmt: skip
    @given(case=cases)
    def ask(case: schemathesis.Case[Any]) -> None:
        answer = case.call(base_url=user.url, headers=user.headers, verify=str(user.grid.folder / "ca.pem"))
        listed = case.operation.definition.raw["responses"]
        assert str(answer.status_code) in listed, (case.as_curl_command(), answer.text)
        if answer.status_code >= 400 and case.method != "HEAD":
            wire.decode(answer.content, wire.ErrorBody)

    (user.grid.folder / "ca.pem").write_text(user.grid.authority.pem)
    ask()


def test_the_document_is_json() -> None:
    """It parses, and names the version of OpenAPI."""
    assert json.loads(openapi.text())["openapi"] == "3.1.0"

"""The API port of a real server process over real TLS: tokens, jobs, and everything that is refused."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from msgspec.structs import replace
from xwgrid_server import accounts

from tests.grid import Grid
from tests.server.callers import Machine, Requester, api_url, digest, noise, own_job, refusal
from tests.server.small_grid import finished
from xwgrid import wire
from xwgrid.applications.digest import expected_value
from xwgrid.model import (
    Audit,
    BlenderWork,
    Credibility,
    DigestWork,
    Fixed,
    Frames,
    JobRequest,
    JobSpec,
    JobState,
)
from xwgrid.wire import Report

ANONYMOUS = {"Authorization": ""}


@pytest.fixture
def user(web_grid: Grid) -> Iterator[Requester]:
    """A requester of this test's own."""
    with Requester(web_grid) as requester:
        yield requester


@pytest.fixture
def other(web_grid: Grid) -> Iterator[Requester]:
    """Somebody else."""
    with Requester(web_grid) as requester:
        yield requester


# --- who is calling ---------------------------------------------------------------------------------------------


def test_open_calls_need_no_token(user: Requester, web_grid: Grid) -> None:
    """Health, CA, document and landing page are for everybody; what browsers could be made to do is forbidden them."""
    assert user.http.get("/healthz", headers=ANONYMOUS).json() == {"status": "ok"}
    assert user.http.get("/v1/ca", headers=ANONYMOUS).text == web_grid.authority.pem
    assert user.http.get("/v1/openapi.json", headers=ANONYMOUS).json()["openapi"] == "3.1.0"
    page = user.http.get("/", headers=ANONYMOUS)
    assert "render and compute grid" in page.text
    assert page.headers["Content-Type"].startswith("text/html")
    assert page.headers["Content-Security-Policy"].startswith("default-src 'none'")
    assert page.headers["X-Content-Type-Options"] == "nosniff"
    assert page.headers["Server"] == "xwgrid"


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("GET", "/v1/whoami"),
        ("GET", "/v1/jobs"),
        ("GET", "/v1/jobs/1"),
        ("GET", "/v1/jobs/1/events"),
        ("POST", "/v1/jobs"),
        ("POST", "/v1/blobs/missing"),
        ("GET", f"/v1/blobs/{'0' * 64}"),
        ("PUT", f"/v1/blobs/{'0' * 64}"),
    ],
)
def test_everything_else_needs_one(user: Requester, method: str, path: str) -> None:
    """Without a token, or with one that is none, a call is refused, and told how to do better."""
    for value in ("", "Bearer", "Bearer xwgrid-requester-AAAA", f"Basic {user.token}"):
        answer = user.http.request(method, path, content=b"", headers={"Authorization": value})
        assert refusal(answer) == (401, "unauthenticated")
        assert answer.headers["WWW-Authenticate"] == "Bearer"


def test_a_revoked_token_ends(user: Requester, web_grid: Grid) -> None:
    """From the moment a token is revoked its calls are refused."""
    assert user.http.get("/v1/whoami").json() == {"name": user.name, "role": "requester"}
    (token,) = [token for token in accounts.list_tokens(web_grid.engine) if token.user == user.name]
    accounts.revoke_token(web_grid.engine, token.id, now=1.0)
    assert refusal(user.http.get("/v1/whoami")) == (401, "unauthenticated")


# --- bodies that are not what was asked for ---------------------------------------------------------------------


@pytest.mark.parametrize(
    "body",
    [b"", b"not json", b"\xff\xfe", b"[]", b"null", b"{}", b'{"name": 1}', b"[" * 5_000, b'{"name": "x", "work": {}}'],
)
def test_a_wrong_body_is_refused_with_its_place(user: Requester, body: bytes) -> None:
    """What is not JSON, or not of the right shape, is a 400 that says what is wrong, never a failure."""
    assert refusal(user.http.post("/v1/jobs", content=body)) == (400, "malformed")


def test_a_body_that_says_it_is_huge_is_refused_unread(user: Requester) -> None:
    """A declared length over the limit is answered before a byte of it is sent."""
    with user.connect() as connection:
        connection.sendall(user.head("POST", "/v1/jobs", Content_Length=wire.MAX_JOB_BYTES + 1))
        assert connection.makefile("rb").readline().startswith(b"HTTP/1.1 413 ")


def test_a_body_without_a_length_is_cut_off(user: Requester) -> None:
    """A body that does not say how long it is is counted, and refused when it passes the limit of its call."""
    endless = (b"0" * 60_000 for _ in range(200))
    assert refusal(user.http.post("/v1/blobs/missing", content=endless)) == (413, "too_large")


def test_a_stranger_cannot_fill_the_memory(user: Requester) -> None:
    """A big body is not read before its sender is known: without a token it is refused at its head."""
    with user.connect() as connection:
        head = user.head("POST", "/v1/jobs", Content_Length=60 << 20, Authorization="Bearer nobody")
        connection.sendall(head)
        assert connection.makefile("rb").readline() == b"HTTP/1.1 401 Unauthorized\r\n"


# --- addresses --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "path",
    ["/v2", "/v1/", "/v1/jobs/", "//v1/jobs", "/v1//jobs", "/v1/jobs/%ff", "/v1/jobs/x", "/v1/jobs/0", "/v1/jobs/-1",
     f"/v1/jobs/{10**30}", "/v1/blobs/..%2f..%2fetc%2fpasswd", "/v1/blobs/%00", f"/v1/blobs/{'A' * 64}", "/%2e%2e/x"],
)  # fmt: skip
def test_an_unknown_address_is_not_found(user: Requester, path: str) -> None:
    """Whatever stands in a path, the answer is one of ours."""
    assert refusal(user.http.get(path)) == (404, "not_found")


def test_a_wrong_method_is_told_the_right_ones(user: Requester) -> None:
    """405 and an Allow header."""
    answer = user.http.delete("/v1/jobs")
    assert refusal(answer) == (405, "bad_input")
    assert answer.headers["Allow"] == "GET, POST"


@pytest.mark.parametrize("query", ["limit=0", "limit=1001", "limit=x", "after=x", "state=lost", "limit=%ff"])
def test_a_wrong_argument_is_named(user: Requester, query: str) -> None:
    """An argument that does not parse is a 400 that names it."""
    job = user.submit(own_job())
    answer = user.http.get(f"/v1/jobs/{job.id}/tasks?{query}")
    assert refusal(answer) == (400, "bad_input")
    assert query.partition("=")[0] in answer.text


def test_pipelined_calls_are_answered_in_order(user: Requester) -> None:
    """Calls sent ahead, one with a body among them, get their answers one after the other."""
    asked = wire.encode(wire.DigestList(digests=("0" * 64,)))
    with user.connect() as connection:
        connection.sendall(
            user.head("GET", "/v1/whoami")
            + user.head("POST", "/v1/blobs/missing", Content_Length=len(asked))
            + asked
            + user.head("PUT", f"/v1/blobs/{digest(b'')}", Content_Length=0)
            + user.head("GET", "/healthz", Connection="close")
        )
        answers = connection.makefile("rb").read()
    places = [answers.index(part) for part in (user.name.encode(), b"0" * 64, b"201 Created", b'"ok"')]
    assert places == sorted(places)


# --- jobs -------------------------------------------------------------------------------------------------------


def test_a_job_is_handed_in_with_what_it_needs(user: Requester) -> None:
    """The job pins the newest version of its application, and how it is checked, in a document its owner may read."""
    sent = user.send(noise(1_000))
    request = own_job(sent, count=3)
    answer = user.http.post("/v1/jobs", content=wire.encode(request))
    job = wire.decode(answer.content, wire.JobView)
    assert answer.headers["Location"] == f"/v1/jobs/{job.id}"
    assert (job.owner, job.tasks, job.application) == (user.name, 3, "digest")
    spec = wire.decode(user.http.get(f"/v1/blobs/{job.spec}").content, JobSpec)
    assert spec.request == request
    assert json.loads(spec.application.manifest)["application"] == "digest"
    assert wire.decode(user.http.get(f"/v1/jobs/{job.id}").content, wire.JobView) == job
    assert wire.decode(user.http.get("/v1/jobs?limit=1").content, wire.JobList).jobs == (job,)


def test_a_job_whose_files_were_not_sent_is_refused(user: Requester, other: Requester) -> None:
    """Not even files that somebody else sent will do: their names say nothing about having them."""
    theirs = other.send(noise(1_000))
    answer = user.http.post("/v1/jobs", content=wire.encode(own_job(theirs)))
    assert refusal(answer) == (400, "bad_input")
    assert theirs.path in answer.text


def test_a_job_that_cannot_be_done_is_refused(user: Requester) -> None:
    """The rules of splitting and of the application hold here too: a quorum that no votes can reach."""
    request = json.loads(wire.encode(own_job()))
    answer = user.http.post("/v1/jobs", content=json.dumps({**request, "replicas": 1, "quorum": 2}))
    assert refusal(answer) == (400, "bad_input")
    assert wire.decode(user.http.get("/v1/jobs").content, wire.JobList).jobs == ()


def test_a_job_gets_the_servers_policy_and_says_so(user: Requester) -> None:
    """Values cannot be audited: a job that asks for nothing is replicated, and its view and document say why."""
    request = replace(own_job(), policy=None, private=False, replicas=2, quorum=2)
    job = user.submit(request)
    assert job.policy == Fixed()
    assert job.policy_note == "replicated instead of audited: its results are values"
    spec = wire.decode(user.http.get(f"/v1/blobs/{job.spec}").content, JobSpec)
    assert (spec.request.policy, spec.request.policy_note) == (job.policy, job.policy_note)
    user.http.post(f"/v1/jobs/{job.id}/cancel")
    credible = user.submit(replace(request, policy=Credibility(epsilon=0.01), deadline=time.time() + 3_600))
    assert (credible.policy, credible.policy_note) == (Credibility(epsilon=0.01), "")
    assert credible.deadline is not None
    user.http.post(f"/v1/jobs/{credible.id}/cancel")


def test_raw_passes_are_only_for_audits(user: Requester) -> None:
    """A job that is not audited is denoised while it is rendered: nobody would look at what its frames are made of."""
    scene = user.send(noise(100))
    film = JobRequest(
        name="film",
        work=BlenderWork(scene_file="a.blend", width=8, height=8, denoise=True, raw_passes=True),
        split=Frames(first=1, last=2),
        inputs=(replace(scene, path="a.blend"),),
    )
    for policy, kept in ((None, True), (Audit(), True), (Fixed(), False), (Credibility(), False)):
        job = user.submit(replace(film, policy=policy))
        spec = wire.decode(user.http.get(f"/v1/blobs/{job.spec}").content, JobSpec)
        assert isinstance(spec.request.work, BlenderWork)
        assert (spec.request.work.denoise, spec.request.work.raw_passes) == (True, kept)
        user.http.post(f"/v1/jobs/{job.id}/cancel")


@pytest.mark.parametrize(
    ("fields", "status", "sentence"),
    [
        ('{"policy": {"by": "boinc"}}', 403, "it allows audit, credibility, fixed"),
        ('{"policy": {"by": "luck"}}', 400, "luck"),
        ('{"policy": "audit"}', 400, "policy"),
        ('{"policy": {"by": "audit", "epsilon": 0}}', 400, "policy.epsilon"),
        ('{"policy": {"by": "audit", "epsilon": -1e-300}}', 400, "policy.epsilon"),
        ('{"policy": {"by": "credibility", "epsilon": 0.6}}', 400, "policy.epsilon"),
        ('{"policy": {"by": "audit", "epsilon": NaN}}', 400, "malformed"),
        ('{"policy": {"by": "audit", "epsilon": 1e999}}', 400, "range"),
        ('{"policy": {"by": "audit", "share": 0}}', 400, "policy.share"),
        ('{"policy": {"by": "audit", "share": 2}}', 400, "policy.share"),
        ('{"policy_note": "checked thrice"}', 400, "leave it out"),
        ('{"policy_note": "' + "x" * 300 + '"}', 400, "policy_note"),
        ('{"policy": {"by": "fixed"}, "replicas": 2, "quorum": 3}', 400, "raise replicas to 3"),
        ('{"deadline": 1}', 400, "the deadline is past"),
        ('{"deadline": -1e308}', 400, "the deadline is past"),
        ('{"deadline": 1e308}', 400, "more than ten years away"),
        ('{"deadline": "tomorrow"}', 400, "deadline"),
    ],
)
def test_a_policy_that_makes_no_sense_is_refused(user: Requester, fields: str, status: int, sentence: str) -> None:
    """Not by its program, its numbers or its words does a client get a policy that the server does not give."""
    plain = wire.encode(replace(own_job(), policy=None)).decode()
    answer = user.http.post("/v1/jobs", content=f"{plain[:-1]}, {fields[1:]}")
    assert answer.status_code == status, answer.text
    assert sentence in answer.text
    assert wire.decode(user.http.get("/v1/jobs").content, wire.JobList).jobs == ()


def test_someone_elses_job_is_not_there(user: Requester, other: Requester) -> None:
    """Its views, its events, and every change are answered like those of a job that never was."""
    job = user.submit(own_job())
    for path in ("", "/tasks", "/tasks/0", "/events"):
        assert refusal(other.http.get(f"/v1/jobs/{job.id}{path}")) == (404, "not_found")
    for change in ("cancel", "retry"):
        assert refusal(other.http.post(f"/v1/jobs/{job.id}/{change}")) == (404, "not_found")
    assert wire.decode(other.http.get("/v1/jobs").content, wire.JobList).jobs == ()
    assert refusal(other.http.get(f"/v1/blobs/{job.spec}")) == (404, "not_found")


def test_an_operator_sees_every_job(user: Requester, web_grid: Grid) -> None:
    """Whoever runs the server can look."""
    job = user.submit(own_job())
    with Requester(web_grid, role="operator") as operator:
        seen = operator.http.get(f"/v1/jobs/{job.id}")
    assert wire.decode(seen.content, wire.JobView).owner == user.name


def test_tasks_come_in_pages(user: Requester) -> None:
    """Each page says where the next begins, the last one that there is none."""
    job = user.submit(own_job(count=5))
    after, numbers = -1, []
    while True:
        answer = user.http.get(f"/v1/jobs/{job.id}/tasks?limit=2&after={after}&state=open")
        page = wire.decode(answer.content, wire.TaskPage)
        numbers += [task.number for task in page.tasks]
        if page.next_after is None:
            break
        after = page.next_after
    assert numbers == [0, 1, 2, 3, 4]
    assert refusal(user.http.get(f"/v1/jobs/{job.id}/tasks/5")) == (404, "not_found")


def test_a_job_is_cancelled_once(user: Requester) -> None:
    """The answer shows it cancelled; there is nothing to cancel or retry then."""
    job = user.submit(own_job())
    cancelled = user.http.post(f"/v1/jobs/{job.id}/cancel")
    assert wire.decode(cancelled.content, wire.JobView).state is JobState.CANCELLED
    assert refusal(user.http.post(f"/v1/jobs/{job.id}/cancel")) == (409, "conflict")
    assert refusal(user.http.post(f"/v1/jobs/{job.id}/retry")) == (409, "conflict")


# --- progress ---------------------------------------------------------------------------------------------------


def test_events_tell_a_job_from_its_present_state_to_its_end(user: Requester, tmp_path: Path) -> None:
    """The first event is the present state, later ones name the tasks that changed; it ends with the job."""
    request = own_job(count=2)
    job = user.submit(request)
    assert isinstance(request.work, DigestWork)
    seen: list[wire.Event] = []
    with Machine(user, tmp_path) as machine, user.http.stream("GET", f"/v1/jobs/{job.id}/events") as answer:
        assert answer.headers["Content-Type"] == "text/event-stream"
        lines = answer.iter_lines()
        for line in lines:
            if line.startswith("data: "):
                seen.append(wire.decode(line[6:], wire.Event))
                if len(seen) == 1:
                    for lease in machine.work(want=2).leases:
                        value = expected_value(request.work, lease.task)
                        machine.work(reports=(Report(replica=lease.replica, outcome=finished(value)),))
            else:
                assert line in {"event: job", ""}
    assert seen[0].job.agreed == 0
    assert seen[0].tasks == ()
    assert seen[-1].job.state is JobState.FINISHED
    assert {task.number for event in seen for task in event.tasks} == {0, 1}


def test_a_job_that_has_ended_tells_so_at_once(user: Requester) -> None:
    """One event, and the stream is over."""
    job = user.submit(own_job())
    user.http.post(f"/v1/jobs/{job.id}/cancel")
    text = user.http.get(f"/v1/jobs/{job.id}/events").text
    assert text.count("event: job") == 1
    assert '"cancelled"' in text


# --- joining ----------------------------------------------------------------------------------------------------


def test_an_enrolment_token_lets_one_machine_in(user: Requester, web_grid: Grid, tmp_path: Path) -> None:
    """The second use is refused, and a requester's token is no enrolment token."""
    with Machine(user, tmp_path) as machine:
        assert machine.work(want=0).leases == ()
    used = wire.EnrolRequest(token=user.token, csr_pem="none", name="x")
    assert refusal(user.http.post("/v1/enrol", content=wire.encode(used), headers=ANONYMOUS))[0] in {400, 401}
    assert api_url(web_grid).startswith("https://127.0.0.1:")

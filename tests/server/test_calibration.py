"""Calibration up to the hosts' work and after it: classes, jobs that are found again, results, and the command."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from random import Random
from typing import Any

import msgspec
import pytest
from click.testing import CliRunner, Result
from msgspec.structs import replace
from sqlalchemy import Connection, Engine, insert
from xwgrid_schema.tables import hosts
from xwgrid_server import (
    accounts,
    admin,
    admin_calibrate,
    application_versions,
    calibration,
    database,
    settings,
    submission,
    tolerance_store,
)
from xwgrid_server.accounts import User
from xwgrid_server.blob_files import BlobFiles
from xwgrid_server.calibration import Accepted, ClassSeen, Rendering, Renderings, chosen_classes, classes_seen
from xwgrid_server.calls import LeaseTerms
from xwgrid_server.coordinator import Coordinator
from xwgrid_server.job_store import SqlStore
from xwgrid_server.settings import Trust

from tests.server.test_tolerance_store import MEASURED
from xwgrid.applications import reference_frames
from xwgrid.errors import BadInput, Conflict, NotFound
from xwgrid.model import HostFacts, HostId, Instant, JobId, JobRequest, JobState, Program, TaskNumber, UserId
from xwgrid.tolerances import Distance
from xwgrid.wire import HostView

NOW: Instant = 1_000_000.0
OPERATOR = User(id=UserId(1), name="operator", role="operator", created_at=0.0)
AVX2, BASELINE = "blender 4.5.15 cpu AVX2", "blender 4.5.15 cpu baseline"


# --- classes ----------------------------------------------------------------------------------------------------


def host(owner: str, result_class: str, *, state: str = "active", seen: Instant | None = NOW) -> HostView:
    """Return a machine with Python and one Blender."""
    programs = (
        Program(runtime="python", version="3.11", result_class="python exact"),
        Program(runtime="blender", version="4.5.15", result_class=result_class),
    )
    facts = HostFacts(name="h", system="Linux", processor="p", cores=2, memory_bytes=1 << 32, programs=programs)
    return HostView(id=HostId(1), name="h", owner=owner, state=state, last_seen_at=seen, facts=facts)


def test_classes_are_those_of_hosts_that_called_today() -> None:
    """Banned machines, those that were not seen for a day, and other runtimes do not count; owners count once."""
    machines = [
        host("ada", AVX2),
        host("ada", AVX2),
        host("grace", AVX2),
        host("operator", AVX2),
        host("operator", BASELINE),
        host("operator", BASELINE),
        host("eve", "banned", state="banned"),
        host("ida", "old", seen=NOW - 86_401),
        host("joan", "never", seen=None),
        replace(host("lise", "x"), facts=None),
    ]
    seen = classes_seen(machines, OPERATOR, "blender", NOW)
    assert seen == {
        AVX2: ClassSeen(name=AVX2, owners=("ada", "grace"), own_hosts=1),
        BASELINE: ClassSeen(name=BASELINE, owners=(), own_hosts=2),
    }
    assert (seen[AVX2].private, seen[AVX2].voters) == (False, 2)
    assert (seen[BASELINE].private, seen[BASELINE].voters) == (True, 2)


SEEN = {name: ClassSeen(name=name, owners=("ada",), own_hosts=0) for name in (AVX2, BASELINE, "blender 5.0 cpu AVX2")}


def test_classes_are_named_by_a_part() -> None:
    """A part of a name that only one class has is enough; none at all means every class."""
    assert [each.name for each in chosen_classes(SEEN, ("baseline", AVX2))] == [BASELINE, AVX2]
    assert [each.name for each in chosen_classes(SEEN, ())] == list(SEEN)


@pytest.mark.parametrize(
    ("wanted", "message"),
    [
        (("AVX2", BASELINE), "fits several classes"),
        (("AVX512", BASELINE), "is no class whose hosts called today"),
        ((BASELINE, "baseline"), "two classes are needed"),
    ],
)
def test_unclear_classes_are_refused(wanted: tuple[str, str], message: str) -> None:
    """A name that fits several, none or the same class twice is refused, and the classes there are are named."""
    with pytest.raises(BadInput, match=message) as refused:
        chosen_classes(SEEN, wanted)
    assert BASELINE in refused.value.message or AVX2 in refused.value.message


def test_one_class_is_not_enough() -> None:
    """With hosts of one class, or of none, there is nothing to measure."""
    for seen in ({}, {AVX2: SEEN[AVX2]}):
        with pytest.raises(BadInput, match="two classes are needed"):
            chosen_classes(seen, ())


# --- renderings -------------------------------------------------------------------------------------------------


class Server:
    """What a server has on its disk, and the part of it that takes jobs."""

    def __init__(self, folder: Path) -> None:
        self.settings_file = folder / "server.toml"
        made = self.run("init", "--state", str(folder / "state"), "--host-name", "localhost", "--api", "127.0.0.1:9")
        assert made.exit_code == 0, made.output
        chosen = settings.load(self.settings_file, {})
        self.engine: Engine = database.open_engine(chosen.database_url)
        self.files = BlobFiles(chosen.blobs_folder, chosen.staging_folder)
        self.operator = accounts.user_named(self.engine, "operator")
        self.coordinator = Coordinator(SqlStore(self.engine), LeaseTerms(), NOW, Random(1))  # noqa: S311
        self.renderings = Renderings(self.engine, self.files, self.operator, self.submit)
        self.submitted: list[JobRequest] = []

    def run(self, *arguments: str) -> Result:
        """Run an admin command."""
        return CliRunner().invoke(admin.main, [*arguments, "--settings", str(self.settings_file)])

    def submit(self, request: JobRequest) -> JobId:
        """Take a job, as the API does."""
        self.submitted.append(request)
        who = self.operator.id
        prepared = submission.prepare(self.engine, self.files, who, request, max_tasks=1_000, trust=Trust(), now=NOW)
        job = self.coordinator.begin_job(who, request, prepared.spec, prepared.blobs, NOW)
        while self.coordinator.enter(job).left:
            pass
        return job

    def of(self, seen: ClassSeen, *, again: bool = False) -> Rendering:
        """Return the rendering of a class."""
        return self.renderings.of(seen, again=again, now=NOW)


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Server]:
    """A server that does not run."""
    made = Server(tmp_path)
    yield made
    made.engine.dispose()


def test_frames_are_handed_in_for_one_class_alone(server: Server) -> None:
    """Each class gets a job of its own with all frames, decided by two voters where there are two."""
    rendering = server.of(ClassSeen(name=AVX2, owners=("ada", "grace", "ida"), own_hosts=1))
    alone = server.of(ClassSeen(name=BASELINE, owners=(), own_hosts=1))
    assert [each.result_class for each in server.submitted] == [AVX2, BASELINE]
    assert [(each.quorum, each.private) for each in server.submitted] == [(2, False), (1, True)]
    stand = server.renderings.stand(rendering)
    assert (stand.agreed, stand.of, stand.state) == (0, 12, JobState.OPEN)
    assert alone.job != rendering.job


def test_what_was_begun_goes_on(server: Server) -> None:
    """Asked again, the job that is under way is found, even if more owners came meanwhile; --again makes a new one."""
    seen = ClassSeen(name=AVX2, owners=("ada",), own_hosts=0)
    first = server.of(seen)
    assert server.of(replace(seen, owners=("ada", "grace"))) == first
    assert server.of(replace(seen, name=BASELINE)).job != first.job
    anew = server.of(seen, again=True)
    assert anew.job not in (first.job, None)
    assert len(server.submitted) == 3


def test_a_job_that_came_to_nothing_is_not_waited_for(server: Server) -> None:
    """Frames that were cancelled are a refusal that names the job, and are handed in anew the next time."""
    seen = ClassSeen(name=AVX2, owners=("ada",), own_hosts=0)
    first = server.of(seen)
    server.coordinator.cancel_job(server.operator.id, first.job, NOW)
    with pytest.raises(Conflict, match=f"job {first.job}.* cancelled"):
        server.renderings.stand(first)
    assert server.of(seen).job != first.job


def test_frames_of_another_program_are_rendered_anew(server: Server) -> None:
    """After the application was published anew the old frames are not compared with frames of the new one."""
    seen = ClassSeen(name=AVX2, owners=("ada",), own_hosts=0)
    first = server.of(seen)
    (newest,) = (each for each in application_versions.list_versions(server.engine) if each.application == "blender")
    application_versions.revoke(server.engine, "blender", newest.version, NOW)
    with pytest.raises(NotFound, match="not published"):
        server.of(seen)
    assert server.renderings.stand(first).state is JobState.OPEN


def test_results_that_are_gone_are_told(server: Server) -> None:
    """A frame whose file is not on the server any more, or never was, is refused with what to do about it."""
    rendering = server.of(ClassSeen(name=AVX2, owners=("ada",), own_hosts=0))
    with pytest.raises(NotFound, match="--again"):
        Accepted(server.engine, server.files, rendering).paths(TaskNumber(0))


def test_the_kinds_of_the_distances_are_those_of_the_frames(server: Server) -> None:
    """Each kind of reference frame gets the distances of its own frames, in their order."""

    class Paths(Accepted):
        def paths(self, number: TaskNumber) -> dict[str, Path]:
            return {"frame": Path(str(number))}

    rendering = server.of(ClassSeen(name=AVX2, owners=("ada",), own_hosts=0))
    accepted = Paths(server.engine, server.files, rendering)

    def measure(_: JobRequest, number: TaskNumber, one: Any, other: Any) -> Distance:
        assert one == other == {"frame": Path(str(number))}
        return Distance(share=0.0, largest=float(number), block=0.0)

    found = calibration.distances(accepted, accepted, measure)
    assert list(found) == list(reference_frames.KINDS)
    assert [[each.largest + 1 for each in several] for several in found.values()] == [
        list(map(float, frames)) for frames in reference_frames.KINDS.values()
    ]


def add_host(connection: Connection, owner: UserId, number: int, result_class: str) -> None:
    """Add a machine that called just now."""
    facts = host("operator", result_class).facts
    now = time.time()
    values = {"id": number, "owner_id": owner, "name": f"host{number}", "enrolled_at": now, "last_seen_at": now}
    connection.execute(insert(hosts).values(**values, facts=msgspec.json.encode(facts).decode()))


# --- the command ------------------------------------------------------------------------------------------------


@pytest.fixture
def refused(server: Server) -> Callable[..., str]:
    """Runs `trust calibrate`, which must be refused with a sentence; returns that."""

    def run(*arguments: str, status: int = 2) -> str:
        ended = server.run("trust", "calibrate", *arguments)
        assert ended.exit_code == status, ended.output
        assert ended.stdout == ""
        assert "Traceback" not in ended.stderr
        return ended.stderr

    return run


def test_bad_wishes_are_refused(refused: Callable[..., str]) -> None:
    """Applications that need no tolerance or are none, senseless margins, and classes nobody has: a sentence each."""
    assert "nothing to calibrate" in refused("--application", "digest")
    assert "no application 'maya'" in refused("--application", "maya")
    for margin in ("0", "nan", "-1", "11"):
        assert "a margin of" in refused("--margin", margin)
    assert "two classes are needed" in refused()
    assert "is no class whose hosts called today" in refused("--classes", "AVX2", "baseline")


def test_without_a_server_it_says_so(server: Server, refused: Callable[..., str]) -> None:
    """With hosts of two classes and a server that does not run, the operator is told to start it."""
    with server.engine.begin() as connection:
        for number, result_class in enumerate((AVX2, BASELINE), start=1):
            add_host(connection, server.operator.id, number, result_class)
    assert "start it with `xwgrid-server run`" in refused(status=1)


def test_a_tolerance_that_holds_no_more_is_removed(server: Server) -> None:
    """Classes that are found too far apart lose the tolerance they had, and the operator is told why and on what."""
    one, other = (server.of(ClassSeen(name=name, owners=("ada",), own_hosts=0)) for name in (AVX2, BASELINE))
    near = {kind: [Distance(share=0.001, largest=2.0, block=0.1)] * 2 for kind in reference_frames.KINDS}
    far = {kind: [Distance(share=0.4, largest=60.0, block=3.0)] * 2 for kind in reference_frames.KINDS}
    kept = admin_calibrate._calibrated(server.engine, "blender", 2.0, (one, other), near)
    assert tolerance_store.list_tolerances(server.engine) == (kept.tolerance,)
    refused = admin_calibrate._calibrated(server.engine, "blender", 2.0, (one, other), far)
    assert tolerance_store.list_tolerances(server.engine) == ()
    assert (refused.tolerance, refused.hosts_agreed, refused.jobs) == (None, (1, 1), (one.job, other.job))
    told = admin_calibrate._told([refused])
    for part in ("cheats would pass for honest", "motion blur", "40.000%", "votes stay within each class"):
        assert part in told


def test_tolerances_are_listed(server: Server) -> None:
    """What was measured is shown, with everything one must know to judge it; at first there is nothing."""
    assert "nothing was measured yet" in server.run("trust", "tolerances").stdout
    tolerance_store.keep(server.engine, MEASURED)
    line = server.run("trust", "tolerances").stdout.splitlines()[1]
    for part in (MEASURED.class_a, MEASURED.class_b, "0.500%", "8", "0.25", "hair, volume", "2023-11-1"):
        assert part in line
    (told,) = json.loads(server.run("trust", "tolerances", "--json").stdout)
    assert (told["class_a"], told["share"], told["samples"]) == (MEASURED.class_a, 0.005, 8)

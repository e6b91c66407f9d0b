"""`xwgrid-admin trust calibrate` and `tolerances`: how far honest results of two classes lie apart."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from itertools import combinations
from typing import Final

import click
from msgspec import Struct
from sqlalchemy import Engine

from xwgrid.applications import registry
from xwgrid.command_line import example
from xwgrid.model import JobId, JobRequest, JobState, Seconds
from xwgrid.reading import Reader
from xwgrid.tolerances import (
    MARGIN,
    Distance,
    Tolerance,
    TooFarApart,
    TooFewSamples,
    check_margin,
    farthest,
    measured,
)
from xwgrid_server import accounts, authority, calibration, operator_calls, tolerance_store
from xwgrid_server.admin_desk import Desk, desk_command, table, when
from xwgrid_server.blob_files import BlobFiles
from xwgrid_server.calibration import Accepted, Rendering, Renderings

_LOOK_EVERY: Final[Seconds] = 1.0
# The token is used once, at once.
_TOKEN_LIFETIME: Final[Seconds] = 600.0


class Calibrated(Struct, frozen=True, kw_only=True):
    """What came of measuring two classes."""

    class_a: str
    class_b: str
    jobs: tuple[JobId, JobId]
    hosts_agreed: tuple[int, int]  # how many equal results each frame needed, by class: 1 is a single host's word
    farthest: Mapping[str, Distance]  # by kind of reference frame
    tolerance: Tolerance | None = None  # None: there can be none, see `refused`
    refused: str | None = None


@click.command(
    "calibrate",
    epilog=example(
        "xwgrid-admin trust calibrate", "xwgrid-admin trust calibrate --application blender --classes AVX2 baseline"
    ),
)
@click.option("--application", default="blender", show_default=True, help="Whose results.")
@click.option(
    "--classes", nargs=2, metavar="A B", help="Names of two, or a part of each; else all of hosts seen today."
)
@click.option("--margin", type=float, default=MARGIN, show_default=True, help="Factor on the distances measured.")
@click.option("--again", is_flag=True, help="Render anew what was rendered before.")
@desk_command
def calibrate(desk: Desk, *, application: str, classes: tuple[str, str] | None, margin: float, again: bool) -> None:
    """Have hosts of two classes render the same frames, measure how far apart they come out, and keep it.

    The server must be running, and hosts of the classes. Broken off, it goes on where it was when it is run again.
    """
    check_margin(margin)
    calibration.check_application(application)
    with desk.database() as engine:
        operator = calibration.operator_of(engine)
        runtime = registry.application(application).runtime
        seen = calibration.classes_seen(accounts.list_hosts(engine), operator, runtime, time.time())
        chosen = calibration.chosen_classes(seen, classes or ())
        files = BlobFiles(desk.settings.blobs_folder, desk.settings.staging_folder)
        renderings = Renderings(engine, files, operator, _submitter(desk, engine, operator))
        made = [renderings.of(each, again=again, now=time.time()) for each in chosen]
        _wait(renderings, made)
        pairs = [sorted(pair, key=lambda each: each.result_class) for pair in combinations(made, 2)]
        reader = Reader()
        try:
            if reader.note is not None:
                click.echo(reader.note, err=True)
            apart = [
                calibration.distances(Accepted(engine, files, one), Accepted(engine, files, other), reader.distance)
                for one, other in pairs
            ]
        finally:
            reader.close()
        found = [
            _calibrated(engine, application, margin, (one, other), distances)
            for (one, other), distances in zip(pairs, apart, strict=True)
        ]
    desk.answer(found, _told(found))


@click.command("tolerances", epilog=example("xwgrid-admin trust tolerances --json"))
@desk_command
def tolerances(desk: Desk) -> None:
    """List the measured tolerances; votes of classes that have none do not mix."""
    with desk.database() as engine:
        found = tolerance_store.list_tolerances(engine)
    desk.answer(found, _table(found))


def _submitter(desk: Desk, engine: Engine, operator: accounts.User) -> calibration.Submit:
    def submit(request: JobRequest) -> JobId:
        now = time.time()
        contact = desk.contact()
        end = now + _TOKEN_LIFETIME
        token = accounts.make_token(
            engine, operator, "requester", contact, expires_at=end, now=now, note="trust calibrate"
        )
        pem = authority.load(desk.settings.authority_folder).pem
        return operator_calls.submit(request, url=contact.url, token=token, ca_pem=pem)

    return submit


def _wait(renderings: Renderings, made: Sequence[Rendering]) -> None:
    """Return when all frames are there; tell on standard error how far they are. Raises GridError."""
    told: dict[JobId, str] = {}
    for rendering in made:
        if rendering.request.quorum == 1:
            click.echo(f"a single host's word is taken for '{rendering.result_class}': only one was seen", err=True)
    while True:
        open_still = False
        for rendering in made:
            stand = renderings.stand(rendering)
            open_still |= stand.state is not JobState.FINISHED
            line = f"job {rendering.job}, '{rendering.result_class}': {stand.agreed} of {stand.of} frames"
            line += f", {stand.running} being rendered" if stand.running else ""
            line += f"; {stand.reason}" if stand.reason else ""
            if told.get(rendering.job) != line:
                click.echo(line, err=True)
                told[rendering.job] = line
        if not open_still:
            return
        time.sleep(_LOOK_EVERY)


def _calibrated(
    engine: Engine,
    application: str,
    margin: float,
    pair: tuple[Rendering, Rendering],
    distances: Mapping[str, Sequence[Distance]],
) -> Calibrated:
    """Keep what comes of the distances between two classes; a tolerance that holds no more is removed."""
    one, other = pair
    classes = (one.result_class, other.result_class)
    tolerance, refused = None, None
    try:
        tolerance = measured(
            distances, application=application, classes=classes, measured_at=time.time(), margin=margin
        )
        tolerance_store.keep(engine, tolerance)
    except (TooFarApart, TooFewSamples) as error:
        refused = error.message
        tolerance_store.forget(engine, application, classes)
    return Calibrated(
        class_a=one.result_class,
        class_b=other.result_class,
        jobs=(one.job, other.job),
        hosts_agreed=(one.request.quorum, other.request.quorum),
        farthest={kind: farthest(several) for kind, several in distances.items()},
        tolerance=tolerance,
        refused=refused,
    )


def _told(found: Sequence[Calibrated]) -> str:
    lines = []
    for each in found:
        lines.append(f"'{each.class_a}' against '{each.class_b}', the farthest apart by kind of frame:")
        rows = [(kind, *_numbers(distance)) for kind, distance in each.farthest.items()]
        lines += [table(("kind", "channels that differ", "largest step", "block step"), rows, ""), ""]
        if each.refused is not None:
            lines += [f"No tolerance: {each.refused}.", ""]
    kept = [each.tolerance for each in found if each.tolerance is not None]
    lines.append(_table(kept) if kept else "No tolerance was kept: votes stay within each class.")
    return "\n".join(lines)


def _table(found: Sequence[Tolerance]) -> str:
    rows = [
        (one.application, one.class_a, one.class_b, *_numbers(one), one.samples, f"{one.margin:g}",
         ", ".join(one.excepted), when(one.measured_at))
        for one in found
    ]  # fmt: skip
    headings = ("application", "class", "and class", "channels", "largest", "block", "samples", "margin", "not for")
    empty = "nothing was measured yet: xwgrid-admin trust calibrate"
    return table((*headings, "measured"), rows, empty)


def _numbers(distance: Distance | Tolerance) -> tuple[str, str, str]:
    return (f"{distance.share:.3%}", f"{distance.largest:g}", f"{distance.block:.3g}")

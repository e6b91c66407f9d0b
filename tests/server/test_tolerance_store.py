"""Measured tolerances in the database."""

from __future__ import annotations

import pytest
from msgspec.structs import replace
from sqlalchemy import Engine
from xwgrid_server import tolerance_store

from xwgrid.errors import BadInput
from xwgrid.tolerances import Tolerance

MEASURED = Tolerance(
    application="blender",
    class_a="blender 4.5.15 cpu AVX2",
    class_b="blender 4.5.15 cpu baseline",
    share=0.005,
    largest=8.0,
    block=0.25,
    measured_at=1_700_000_000.25,
    samples=8,
    margin=2.0,
    excepted=("hair", "volume"),
)


def test_what_is_kept_is_found(engine: Engine) -> None:
    """A tolerance comes back as it was measured, whichever of its classes is named first."""
    classes = (MEASURED.class_a, MEASURED.class_b)
    assert tolerance_store.between(engine, "blender", classes) is None
    tolerance_store.keep(engine, MEASURED)
    assert tolerance_store.between(engine, "blender", classes) == MEASURED
    assert tolerance_store.between(engine, "blender", classes[::-1]) == MEASURED
    assert tolerance_store.between(engine, "digest", classes) is None
    assert tolerance_store.list_tolerances(engine) == (MEASURED,)


def test_a_new_measurement_takes_the_place_of_the_old(engine: Engine) -> None:
    """There is one tolerance for two classes: the last that was measured."""
    other = replace(MEASURED, class_b="blender 5.0.1 cpu AVX2")
    anew = replace(MEASURED, share=0.001, measured_at=1_800_000_000.0, excepted=())
    for tolerance in (MEASURED, other, anew):
        tolerance_store.keep(engine, tolerance)
    assert tolerance_store.list_tolerances(engine) == (anew, other)


def test_forgetting(engine: Engine) -> None:
    """A tolerance that holds no more is removed, and only that one."""
    other = replace(MEASURED, application="another")
    tolerance_store.keep(engine, MEASURED)
    tolerance_store.keep(engine, other)
    assert tolerance_store.forget(engine, "blender", (MEASURED.class_b, MEASURED.class_a))
    assert not tolerance_store.forget(engine, "blender", (MEASURED.class_b, MEASURED.class_a))
    assert tolerance_store.list_tolerances(engine) == (other,)


def test_one_class_has_none(engine: Engine) -> None:
    """Asking for the tolerance of a class to itself is a mistake of the caller."""
    with pytest.raises(BadInput, match="one class"):
        tolerance_store.between(engine, "blender", ("a", "a"))

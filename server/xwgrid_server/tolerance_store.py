"""The tolerances that were measured between classes. Functions block; each is one transaction."""

from __future__ import annotations

import msgspec
from sqlalchemy import Connection, Engine, RowMapping, delete, insert, select
from xwgrid_schema.tables import tolerances

from xwgrid.tolerances import Tolerance, ordered
from xwgrid_server.database import reading


def keep(engine: Engine, tolerance: Tolerance) -> None:
    """Store a tolerance in place of what was measured for its two classes before."""
    row = msgspec.structs.asdict(tolerance)
    row["excepted"] = msgspec.json.encode(tolerance.excepted).decode()
    with engine.begin() as connection:
        _forget(connection, tolerance.application, (tolerance.class_a, tolerance.class_b))
        connection.execute(insert(tolerances).values(**row))


def forget(engine: Engine, application: str, classes: tuple[str, str]) -> bool:
    """Remove the tolerance between two classes; say whether there was one. Raises BadInput for one and the same."""
    with engine.begin() as connection:
        return _forget(connection, application, ordered(*classes))


def between(engine: Engine, application: str, classes: tuple[str, str]) -> Tolerance | None:
    """Return the tolerance between two classes; None: their votes do not mix. Raises BadInput for one and the same."""
    class_a, class_b = ordered(*classes)
    query = select(tolerances).where(
        tolerances.c.application == application, tolerances.c.class_a == class_a, tolerances.c.class_b == class_b
    )
    with reading(engine) as connection:
        row = connection.execute(query).mappings().one_or_none()
    return None if row is None else _tolerance(row)


def list_tolerances(engine: Engine) -> tuple[Tolerance, ...]:
    """Return all that were measured, by application and classes."""
    query = select(tolerances).order_by(tolerances.c.application, tolerances.c.class_a, tolerances.c.class_b)
    with reading(engine) as connection:
        return tuple(_tolerance(row) for row in connection.execute(query).mappings())


def _forget(connection: Connection, application: str, classes: tuple[str, str]) -> bool:
    class_a, class_b = classes
    gone = delete(tolerances).where(
        tolerances.c.application == application, tolerances.c.class_a == class_a, tolerances.c.class_b == class_b
    )
    return connection.execute(gone).rowcount > 0


def _tolerance(row: RowMapping) -> Tolerance:
    excepted = msgspec.json.decode(row["excepted"], type=tuple[str, ...])
    return Tolerance(**{**row, "excepted": excepted})

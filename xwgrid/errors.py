"""What can go wrong, said so that the reader knows what to do next."""

from __future__ import annotations

from typing import ClassVar


class GridError(Exception):
    """Something the grid refuses or cannot do; the message says what, and what to do about it.

    `facts` holds the names and numbers of the message for programs; `code` is stable and goes over the wire.
    """

    code: ClassVar[str] = "error"
    http_status: ClassVar[int] = 500
    exit_status: ClassVar[int] = 1

    def __init__(self, message: str, **facts: str | int | float | bool | list[str] | None) -> None:
        super().__init__(message)
        self.message = message
        self.facts = facts


class BadInput(GridError):
    """What was handed in is not of the form asked for: correct it and try again."""

    code = "bad_input"
    http_status = 400
    exit_status = 2


class Malformed(BadInput):
    """The bytes are not a message of this interface: the sender is broken or of another version."""

    code = "malformed"


class BadSettings(BadInput):
    """A settings file or environment variable has a key or value that is not understood: correct the file named."""

    code = "bad_settings"


class Unauthenticated(GridError):
    """No token or certificate, or one that is unknown, expired, used or revoked: ask the operator for a new one."""

    code = "unauthenticated"
    http_status = 401
    exit_status = 2


class Forbidden(GridError):
    """Known, but not allowed to do this: ask its owner or the operator."""

    code = "forbidden"
    http_status = 403
    exit_status = 2


class NotFound(GridError):
    """There is no such thing, or none that you may see: check the name or number."""

    code = "not_found"
    http_status = 404
    exit_status = 2


class Conflict(GridError):
    """The thing is in a state that does not allow this: look at it again before the next try."""

    code = "conflict"
    http_status = 409


class TooLarge(GridError):
    """More bytes, tasks or entries than the limit named: hand in less, or ask the operator for a higher limit."""

    code = "too_large"
    http_status = 413
    exit_status = 2


class WrongBytes(GridError):
    """The bytes do not hash to the name they were sent under: send them again."""

    code = "wrong_bytes"
    http_status = 422
    exit_status = 2


class UnreadableResult(GridError):
    """A result is missing, does not decode, or is not what its job pinned: it gets no vote, and is rendered again."""

    code = "unreadable_result"
    http_status = 422


class BadSignature(GridError):
    """An application version is not signed by a key this volunteer trusts: it is not run."""

    code = "bad_signature"
    http_status = 403


class OutOfSpace(GridError):
    """The disk, or the share of it given to the grid, is full: nothing was kept of this; free some and try again."""

    code = "out_of_space"
    http_status = 507
    exit_status = 2


class Unavailable(GridError):
    """The other side cannot be reached or is not ready: nothing is lost, try again later."""

    code = "unavailable"
    http_status = 503


class IllegalMove(GridError):
    """A job, task or replica was asked for a move that its table does not have: a fault in the program."""

    code = "illegal_move"


BY_CODE: dict[str, type[GridError]] = {
    kind.code: kind
    for kind in (
        GridError, BadInput, Malformed, BadSettings, Unauthenticated, Forbidden, NotFound, Conflict, TooLarge,
        WrongBytes, UnreadableResult, BadSignature, OutOfSpace, Unavailable, IllegalMove,
    )
}  # fmt: skip

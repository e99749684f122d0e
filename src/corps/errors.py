"""Every deliberate failure of corps, and what it means to HTTP and to a shell script.

| class         | code        | HTTP | exit | meaning |
|---|---|---|---|---|
| Failed        | failed      | 200  | 1    | carried out, and it failed (an app did not start) |
| Malformed     | malformed   | 400  | 2    | the command line or the request cannot be parsed |
| Invalid       | invalid     | 422  | 3    | well-formed, but the spec is wrong |
| NotFound      | not_found   | 404  | 4    | no such app, instance, worker, artifact |
| Conflict      | conflict    | 409  | 5    | the state forbids it now |
| Denied        | denied      | 403  | 6    | identity unknown or not allowed |
| Unavailable   | unavailable | 503  | 7    | no master, no fitting worker; a retry may help |
| TimedOut      | timed_out   | 504  | 8    | the deadline passed; the outcome is unknown |
| ProtocolError | protocol    | 502  | 9    | the peer broke the wire contract |
| CorpsError    | bug         | 500  | 70   | a bug of ours: please report |
"""

from __future__ import annotations

from typing import ClassVar

INTERRUPTED_EXIT_CODE = 130


class CorpsError(Exception):
    """Base of every deliberate failure; only subclasses are raised."""

    code: ClassVar[str] = "bug"
    http_status: ClassVar[int] = 500
    exit_code: ClassVar[int] = 70

    def __init__(self, message: str, **details: str | int) -> None:
        super().__init__(message)
        self.message = message
        self.details = details


class Failed(CorpsError):
    """Carried out, and it failed."""

    code, http_status, exit_code = "failed", 200, 1


class Malformed(CorpsError):
    """The command line or the request cannot be parsed."""

    code, http_status, exit_code = "malformed", 400, 2


class Invalid(CorpsError):
    """Well-formed, but wrong: `details["field"]` names what."""

    code, http_status, exit_code = "invalid", 422, 3


class NotFound(CorpsError):
    """No such app, instance, worker or artifact."""

    code, http_status, exit_code = "not_found", 404, 4


class Conflict(CorpsError):
    """True, but not now: the current state forbids it."""

    code, http_status, exit_code = "conflict", 409, 5


class Denied(CorpsError):
    """Identity unknown, or not allowed."""

    code, http_status, exit_code = "denied", 403, 6


class Unavailable(CorpsError):
    """No master or no fitting worker now; a retry may help."""

    code, http_status, exit_code = "unavailable", 503, 7


class TimedOut(CorpsError):
    """The deadline passed; the outcome is unknown."""

    code, http_status, exit_code = "timed_out", 504, 8


class ProtocolError(CorpsError):
    """The peer broke the wire contract."""

    code, http_status, exit_code = "protocol", 502, 9


ERRORS: dict[str, type[CorpsError]] = {
    error.code: error
    for error in (
        CorpsError,
        Failed,
        Malformed,
        Invalid,
        NotFound,
        Conflict,
        Denied,
        Unavailable,
        TimedOut,
        ProtocolError,
    )
}


def error_of(code: str, message: str, details: dict[str, str | int]) -> CorpsError:
    """The exception a `Failure` stands for; an unknown code is a bug of the peer."""
    return ERRORS.get(code, CorpsError)(message, **details)

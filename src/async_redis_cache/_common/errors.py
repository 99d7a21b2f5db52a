"""The errors of the library. Each is a `CacheError` and the matching Pip.Services exception.

Errors are logged, so no message contains a value, a password or a whole key.
"""

from __future__ import annotations

from typing import Any, Final, Self

from .pip_services import (
    ApplicationException,
    BadRequestException,
    ConfigException,
    ConflictException,
    ConnectionException,
    Context,
    InvalidStateException,
    InvocationException,
    UnauthorizedException,
    UnsupportedException,
    trace_id_of,
)
from .running_trace import running_trace_id

__all__ = [
    "CONNECTION_FAILURES",
    "SERVER_FAILURES",
    "UNANSWERED",
    "CacheAuthError",
    "CacheConfigError",
    "CacheError",
    "CacheInputError",
    "CacheLoadError",
    "CacheLockError",
    "CacheLoginError",
    "CacheOutcomeUnknown",
    "CacheOverloaded",
    "CachePermissionError",
    "CacheServerError",
    "CacheStateError",
    "CacheTimeout",
    "CacheUnavailable",
    "CacheUnsupported",
]


class CacheError(ApplicationException):
    """The base class of all errors of this library. Catch it to continue without the cache.

    Attributes:
        code: the cause, for programs, such as `TIMEOUT`, `NOT_OPENED` or `BAD_KEY`.
        trace_id: the trace id of the call's context, or else of the running OpenTelemetry span; None without either.
        message: the cause and what to do, for people.
    """

    def __init__(self, code: str, message: str) -> None:
        # The next class in the MRO is a framework error, with the arguments (trace_id, code, message).
        super().__init__(None, code, message)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
        # The framework sets this to the traceback of the exception being handled, which can be an error of the
        # driver that quotes the caller's data.
        self.stack_trace = ""

    def traced(self, context: Context) -> Self:
        """Set the trace id to that of the call's context, or else of the running span, and return this error."""
        trace_id = trace_id_of(context)
        self.trace_id: str | None = running_trace_id() if trace_id is None else trace_id
        return self

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (self.code, self.message), {"trace_id": self.trace_id}


class CacheConfigError(CacheError, ConfigException, ValueError):
    """An option, a URI, or a file that an option names, is missing or invalid.

    Codes: NO_CONNECTION, BAD_URI, BAD_OPTION, CANNOT_RESOLVE.
    """


class CacheStateError(CacheError, InvalidStateException, RuntimeError):
    """The cache cannot serve the caller in its current state.

    Codes: NOT_OPENED (not open, or closed while the call was waiting), WRONG_LOOP (opened on another event loop,
    or before a fork), IN_EVENT_LOOP (the synchronous cache was called on its own event loop).
    """


class CacheInputError(CacheError, BadRequestException, ValueError):
    """A key, tag, timeout, type or value is invalid. Nothing was sent.

    Codes: BAD_AMOUNT, BAD_KEY, BAD_LOAD_OPTION, BAD_TAG, BAD_TIMEOUT, BAD_TYPE, NOT_SERIALIZABLE, VALUE_TOO_LARGE.
    """


class CacheLoadError(CacheError, InvocationException, RuntimeError):
    """A load failed because of its loader. Other calls are not affected.

    Codes: LOAD_CANCELLED (the loader was cancelled, or raised `CancelledError`, which is the cause of this error;
    the caller was not cancelled), LOAD_CYCLE (a loader requests the key that it loads, directly or through another
    load).
    """


class CacheLockError(CacheError, ConflictException, RuntimeError):
    """A lock is not held.

    Codes: LOCK_TIMEOUT (another held it for as long as the caller waited), LOCK_LOST (it expired or was removed while it
    was held), NOT_LOCKED (it was not acquired yet).
    """


class CacheUnavailable(CacheError, ConnectionException):
    """The server is unreachable, or does not serve requests at the moment. Nothing was changed.

    Codes: CONNECT_FAILED, CONNECTION_LOST, HOST_NOT_ALLOWED, NO_CREDENTIALS (`options.credential_provider` returned no
    login), LOADING, MASTERDOWN, CLUSTERDOWN, TRYAGAIN, and BREAKER_OPEN, which only loading methods raise, if
    `options.fail_open` is `never`.
    """


class CacheTimeout(CacheError, ConnectionException, TimeoutError):
    """The deadline of the call passed, and nothing was sent that could change data.

    Codes: TIMEOUT, LOAD_TIMEOUT (a load took longer than its `hard_timeout`).
    """


class CacheOutcomeUnknown(CacheError, InvocationException):
    """A write was sent and no reply arrived: it may have been executed, or may still be.

    Code: OUTCOME_UNKNOWN. The cache removes the key as soon as the server accepts that; a stored value expires in any
    case.
    """


class CacheOverloaded(CacheError, ConnectionException):
    """A limit on waiting calls or running loaders is reached. Nothing was sent.

    Codes: OVERLOADED (`options.max_waiting_calls` or `max_waiting_bytes`), TOO_MANY_THREADS (`loading.max_threads`
    threads run loaders, or the process cannot start one).
    """


class CacheAuthError(CacheError):
    """The server rejected the user: `CacheLoginError` or `CachePermissionError`. Never retried."""


class CacheLoginError(CacheAuthError, ConfigException):
    """The login is wrong or missing, or a certificate was rejected.

    Codes: BAD_CREDENTIALS, BAD_CERTIFICATE. `open` raises it. Once the cache is open, calls that load continue without
    the server, as if it were unreachable.
    """


class CachePermissionError(CacheAuthError, UnauthorizedException):
    """The user may not run a command, or access a key, channel or database. Code: NOPERM."""


class CacheServerError(CacheError, InvocationException):
    """The server replied with an error, or with an invalid reply.

    Codes: the first word of the error reply, such as OOM, MISCONF, READONLY, NOREPLICAS, BUSY, WRONGTYPE or
    CROSSSLOT; OVERFLOW (of a counter); PROTOCOL_ERROR (the reply does not fit the command), REPLY_TOO_LARGE (it is longer than the command
    allows).
    """


class CacheUnsupported(CacheError, UnsupportedException):
    """The server or the configuration lacks something that the call needs. Code: UNSUPPORTED."""


UNANSWERED: Final = (CacheUnavailable, CacheTimeout)
"""Errors of a server that cannot be reached or does not reply."""
CONNECTION_FAILURES: Final = (*UNANSWERED, CacheLoginError)
"""Errors of a server that no request can be sent to, or that does not reply. They open its circuit."""
SERVER_FAILURES: Final = (
    *CONNECTION_FAILURES,
    CacheOverloaded,
    CacheOutcomeUnknown,
    CacheServerError,
)
"""Errors after which a load continues without the server. All others, such as missing permissions, are raised."""

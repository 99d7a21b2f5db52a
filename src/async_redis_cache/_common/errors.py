"""What goes wrong, as types. Each error is a `CacheError` and the Pip.Services exception that fits.

No message holds a value, a password or a whole key: errors end in logs.
"""

from __future__ import annotations

from typing import Any, Final, Self

from .pip_services import (
    ApplicationException,
    BadRequestException,
    ConfigException,
    ConnectionException,
    Context,
    InvalidStateException,
    InvocationException,
    UnauthorizedException,
    UnsupportedException,
    trace_id_of,
)

__all__ = [
    "SERVER_FAILURES",
    "UNANSWERED",
    "CacheAuthError",
    "CacheConfigError",
    "CacheError",
    "CacheInputError",
    "CacheLoadError",
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
    """Anything this library raises. Catch it to go on without the cache.

    Attributes:
        code: what happened, for programs: `TIMEOUT`, `NOT_OPENED`, `BAD_KEY` ...
        trace_id: the trace id of the call's context, or None.
        message: what happened, for people.
    """

    def __init__(self, code: str, message: str) -> None:
        # The next in line is one of the framework's errors: (trace_id, code, message).
        super().__init__(None, code, message)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
        # The framework fills this with the traceback of whatever is being handled, which may be
        # a driver's error that quotes the caller's data.
        self.stack_trace = ""

    def traced(self, context: Context) -> Self:
        """This error, bearing the trace id of the call that it ends."""
        self.trace_id: str | None = trace_id_of(context)
        return self

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (self.code, self.message), {"trace_id": self.trace_id}


class CacheConfigError(CacheError, ConfigException, ValueError):
    """An option, a URI or a file named by one is missing or wrong.

    Codes: NO_CONNECTION, BAD_URI, BAD_OPTION, CANNOT_RESOLVE.
    """


class CacheStateError(CacheError, InvalidStateException, RuntimeError):
    """The cache cannot serve this caller in its present state.

    Codes: NOT_OPENED (also: closed while the call was waiting), WRONG_LOOP (opened on another
    event loop, or before a fork), IN_EVENT_LOOP (the synchronous cache, called on its own loop).
    """


class CacheInputError(CacheError, BadRequestException, ValueError):
    """A key, timeout or value that cannot be taken. Nothing was sent.

    Codes: BAD_KEY, BAD_LOAD_OPTION, BAD_TIMEOUT, BAD_TYPE, NOT_SERIALIZABLE, VALUE_TOO_LARGE.
    """


class CacheLoadError(CacheError, InvocationException, RuntimeError):
    """A load could not end as loads do, because of what its loader did. Other calls go on.

    Codes: LOAD_CANCELLED (the loader was cancelled, or raised `CancelledError`, which is the cause
    of this error; the caller was not cancelled); LOAD_CYCLE (a loader asks for the key that it
    loads, itself or through another load).
    """


class CacheUnavailable(CacheError, ConnectionException):
    """The server cannot be reached or does not serve at the moment. Nothing was changed.

    Codes: CONNECT_FAILED, CONNECTION_LOST, HOST_NOT_ALLOWED, LOADING, MASTERDOWN, CLUSTERDOWN, TRYAGAIN;
    BREAKER_OPEN, which no method raises.
    """


class CacheTimeout(CacheError, ConnectionException, TimeoutError):
    """The call's deadline passed before anything was sent that could change the server.

    Codes: TIMEOUT; LOAD_TIMEOUT for a load that took too long.
    """


class CacheOutcomeUnknown(CacheError, InvocationException):
    """A change was sent and its answer did not come: it may have happened, or may yet.

    Code: OUTCOME_UNKNOWN. What is stored expires in any case; `remove` again to be sure.
    """


class CacheOverloaded(CacheError, ConnectionException):
    """More calls wait than `options.max_waiting_calls` or `max_waiting_bytes` allow, or more loaders run.

    Codes: OVERLOADED, raised at once; nothing was sent. TOO_MANY_THREADS: a load was refused, since as
    many threads as `loading.max_threads` allows run loaders, or no thread can be started.
    """


class CacheAuthError(CacheError):
    """The server refuses this user: `CacheLoginError` or `CachePermissionError`. Never retried."""


class CacheLoginError(CacheAuthError, ConfigException):
    """Wrong or missing login, or a certificate that does not verify.

    Codes: BAD_CREDENTIALS, BAD_CERTIFICATE.
    """


class CachePermissionError(CacheAuthError, UnauthorizedException):
    """The user may not run this command or touch this key. Code: NOPERM."""


class CacheServerError(CacheError, InvocationException):
    """The server answered with an error. The code is the server's own word.

    Codes: OOM, MISCONF, READONLY, NOREPLICAS, BUSY, WRONGTYPE, CROSSSLOT ...; PROTOCOL_ERROR for a reply
    that cannot be one to what was sent, and REPLY_TOO_LARGE for one that is longer than it can be.
    """


class CacheUnsupported(CacheError, UnsupportedException):
    """The server, or the cache's configuration, lacks what the call needs. Code: UNSUPPORTED."""


UNANSWERED: Final = (CacheUnavailable, CacheTimeout)
"""Errors of a server that cannot be reached or does not reply. They open its circuit."""
SERVER_FAILURES: Final = (
    *UNANSWERED,
    CacheOverloaded,
    CacheOutcomeUnknown,
    CacheServerError,
)
"""Errors after which a load continues without the server. All others, such as missing permissions, are raised."""

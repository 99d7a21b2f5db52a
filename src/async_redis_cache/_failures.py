"""Why an exchange failed, said once; each caller who waited for it then gets an error of its own."""

from __future__ import annotations

from typing import Final, NamedTuple

from ._errors import (
    CacheError,
    CacheLoginError,
    CacheOutcomeUnknown,
    CachePermissionError,
    CacheServerError,
    CacheTimeout,
    CacheUnavailable,
    CacheUnsupported,
)
from ._uri import Address

__all__ = ["LOST", "MISREAD", "TIMED_OUT", "UNKNOWN", "Failure", "ServerReply", "failure_of"]


class Failure(NamedTuple):
    """A failure, before it becomes an error.

    Errors are made of it one by one, never shared: each bears its caller's trace id and traceback.
    """

    kind: type[CacheError]
    code: str
    message: str
    passing: bool = False
    """Whether the same call may succeed a moment later, on this server."""
    place: Address | None = None
    """The node of the cluster that would have been right; without a host, on the same."""

    def error(self) -> CacheError:
        """A new error that says this."""
        return self.kind(self.code, self.message)


class ServerReply(Exception):
    """An error reply as it came. Its text may quote keys and values: it stays in here."""


TIMED_OUT: Final = Failure(CacheTimeout, "TIMEOUT", "no answer in time")
LOST: Final = Failure(CacheUnavailable, "CONNECTION_LOST", "the connection was lost", passing=True)
MISREAD: Final = Failure(
    CacheServerError, "PROTOCOL_ERROR", "the server's answer could not be understood", passing=True
)
UNKNOWN: Final = Failure(
    CacheOutcomeUnknown,
    "OUTCOME_UNKNOWN",
    "a change was sent and its answer was lost: it may have been made, or may yet be",
)

LEFT_ALONE: Final = Failure(
    CacheUnavailable, "BREAKER_OPEN", "the server does not answer, and is left alone"
)

_NOPERM_IN_SCRIPT: Final = ("ACL failure in script", "user executing the script can't")
_REDIRECTS: Final = {"MOVED", "ASK"}
_UNAVAILABLE: Final = {
    "LOADING": "the server is loading its data",
    "MASTERDOWN": "the server is a replica that has lost its master",
    "CLUSTERDOWN": "the cluster does not serve",
    "TRYAGAIN": "the server is moving the key's slot",
}


def failure_of(reply: ServerReply) -> Failure:
    """What an error reply means, by its first word; its text is dropped (see `ServerReply`)."""
    text = str(reply)
    word = text.partition(" ")[0]
    if word in _UNAVAILABLE:
        return Failure(CacheUnavailable, word, _UNAVAILABLE[word], passing=True)
    if word in {"NOAUTH", "WRONGPASS"}:
        return Failure(CacheLoginError, "BAD_CREDENTIALS", "the server refuses the login")
    if word == "NOPERM" or any(sign in text for sign in _NOPERM_IN_SCRIPT):
        return Failure(CachePermissionError, "NOPERM", "the user may not do this on this key")
    if text.startswith("ERR max number of clients"):
        return Failure(
            CacheUnavailable, "CONNECT_FAILED", "the server has no room for us", passing=True
        )
    if text.startswith("ERR unknown command"):
        return Failure(
            CacheUnsupported, "UNSUPPORTED", "the server lacks a command this call needs"
        )
    code = word if word.isalpha() and word.isupper() else "ERR"
    place = _place_in(text) if word in _REDIRECTS else None
    problem = f"the server answered with the error {code}"
    if place is not None:
        problem = "the key is on another node of a cluster, and options.topology is not cluster"
    return Failure(CacheServerError, code, problem, place=place)


def _place_in(redirection: str) -> Address | None:
    host, _, port = redirection.rpartition(" ")[2].rpartition(":")
    return (host, int(port)) if port.isdigit() else None

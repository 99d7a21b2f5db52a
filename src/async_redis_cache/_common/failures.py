"""Failures of pipelines, from which each waiting caller gets an error of its own.

Error replies can quote keys and values. Of their text only the first word is kept, and the names of commands that the
library itself sends.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from typing import Final, NamedTuple

from .endpoint import Address
from .errors import (
    CacheError,
    CacheLoginError,
    CacheOutcomeUnknown,
    CachePermissionError,
    CacheServerError,
    CacheTimeout,
    CacheUnavailable,
    CacheUnsupported,
)
from .hosts import parse_address, parse_port_number

__all__ = [
    "CIRCUIT_OPEN",
    "LOST",
    "TIMED_OUT",
    "TOO_LARGE",
    "UNEXPECTED_REPLY",
    "UNKNOWN",
    "Failure",
    "ServerReply",
    "failure_of",
    "is_script_unknown",
    "may_not_run",
    "refuses_evalsha",
]


_SERVER: Final = "{server}"
"""In a message, where to put the address; without it, the address precedes the message."""


class Failure(NamedTuple):
    """A failure, from which errors are created.

    Callers never share an error, because it has the trace id and the traceback of one call.
    """

    kind: type[CacheError]
    code: str
    message: str
    retryable: bool = False
    """Whether the same request may succeed on this server a moment later."""
    address: Address | None = None
    """The cluster node to which the reply redirects; an empty host is the host of the replying node."""
    server: str = ""
    """The name of the server for the message, without a login."""

    def error(self) -> CacheError:
        """Create an error."""
        message = self.message
        if _SERVER in message:
            message = message.replace(_SERVER, self.server or "the server")
        elif self.server:
            message = f"{self.server}: {message}"
        # One line: a name supplied by a server must not be able to forge a log record.
        return self.kind(self.code, message if message.isprintable() else ascii(message)[1:-1])


class ServerReply(Exception):
    """An error reply of the server. Its text can quote keys and values, and must not be shown or logged."""


TIMED_OUT: Final = Failure(CacheTimeout, "TIMEOUT", "no reply within the deadline of the call")
LOST: Final = Failure(
    CacheUnavailable,
    "CONNECTION_LOST",
    "the connection was lost before the reply arrived",
    retryable=True,
)
UNEXPECTED_REPLY: Final = Failure(
    CacheServerError,
    "PROTOCOL_ERROR",
    "the reply does not fit the command: check that a Redis or Valkey server listens at this address",
    retryable=True,
)
TOO_LARGE: Final = Failure(
    CacheServerError,
    "REPLY_TOO_LARGE",
    "the server's reply is larger than options.max_value_size allows for the keys that were requested",
)
UNKNOWN: Final = Failure(
    CacheOutcomeUnknown,
    "OUTCOME_UNKNOWN",
    "a write was sent and no reply arrived: it may have been executed, or may still be",
)

CIRCUIT_OPEN: Final = Failure(
    CacheUnavailable,
    "BREAKER_OPEN",
    "the circuit is open: the server did not reply to the last calls",
)

Commands = Iterable[tuple[bytes | int, ...]]

_REDIRECTS: Final = {"MOVED", "ASK"}
_REDIRECTION: Final = r"[A-Z]+ (?P<slot>[0-9]{1,5}) (?P<host>.*):(?P<port>[0-9]{1,5})"
_SLOTS: Final = 16384
_TEXT: Final = 1024
"""The number of characters of an error reply that are parsed; all that matters is at its beginning."""
_UNAVAILABLE: Final = {
    "LOADING": "the server is loading its data: it serves requests when that is done",
    "MASTERDOWN": "the server is a replica that has lost its master: check the link between them",
    "CLUSTERDOWN": "the cluster does not serve this slot: check that each slot has a master",
    "TRYAGAIN": "the server is moving the keys of this slot to another node",
}
_SERVER_ERRORS: Final = {
    "OOM": "the server is out of memory: set its maxmemory-policy to one that evicts, or raise maxmemory",
    "MISCONF": "the server cannot save its data and rejects writes: check its log and its disk",
    "READONLY": "the server is a replica and rejects writes: connect to its master",
    "NOREPLICAS": "the server has fewer replicas than its min-replicas-to-write, and rejects writes",
    "BUSY": "a script blocks the server: see SCRIPT KILL",
    "WRONGTYPE": "the key holds something other than a string, stored by another program: remove it there, "
    "or set another options.key_prefix",
    "CROSSSLOT": "the server is a node of a cluster: set options.topology to cluster",
}
_WITHOUT: Final = {
    "EVAL": "options.max_size, tags and the methods that load need scripts. Without them, set options.max_size "
    "to 0 and use store, retrieve and remove without tags",
    "GETDEL": "remove needs Redis 6.2 or newer; remove_many does not",
    "UNLINK": "removals need Redis 4 or newer",
    "SCAN": "clear needs it if options.key_prefix is set",
    "TIME": "the methods that load, and options.max_size, need it",
    "GETRANGE": "contains, touch and the methods that load need it",
    "PTTL": "time_to_live and near_cache.enabled need it",
    "HELLO": "options.topology sentinel and near_cache.enabled need Redis 6 or newer",
    "CLIENT": "near_cache.enabled needs CLIENT TRACKING of Redis 6 or newer: set it to false",
    "CLUSTER": "options.topology cluster needs a cluster node: set it to single",
    "SENTINEL": "options.topology sentinel needs a Sentinel: set it to single",
    "SUBSCRIBE": "options.topology sentinel needs it: set it to single",
    "SELECT": "a database other than 0 needs it: remove the number from the URI",
    **dict.fromkeys(
        ("ZADD", "ZREM", "ZCARD", "ZRANGE", "ZPOPMIN", "ZREMRANGEBYSCORE", "PEXPIREAT"),
        "options.max_size needs it, and Redis 5 or newer: set it to 0",
    ),
}
"""By command, what needs it, and how to avoid it."""
_OURS: Final = {
    *_WITHOUT,
    *(
        "EVALSHA",
        "INCRBY",
        "PING",
        "AUTH",
        "ASKING",
        "MGET",
        "EXISTS",
        "SET",
        "PEXPIRE",
        "GET",
        "SETRANGE",
    ),
}
"""All commands that are sent. No other word of an error reply is repeated in a message."""

# `re` compiles these at their first use: most processes meet none of these errors, and compiling takes milliseconds.
_NAME: Final = r"[`']([A-Za-z]{2,20})((?:\|[a-z-]{2,20})?)[`']"
_MAY_NOT_RUN: Final = rf"permissions to run the (?:{_NAME})?"
_UNKNOWN: Final = (
    rf"(?i)^(?:ERR )?(?:unknown|unsupported) (?:redis )?(?:sub)?command(?:,? {_NAME})?"
)
_EVALSHA_REFUSED: Final = (
    r"(?i)NOPERM .*permissions to run the [`']evalsha[`']|"
    r"(?:ERR )?(?:unknown|unsupported) command(?:,? [`']evalsha[`']|[^`']*$)"
)
_IN_SCRIPT: Final = ("ACL failure in script", "user executing the script can't")
_MAY_NOT_RUN_IN_SCRIPT: Final = "can't run this command"
_CALLED: Final = rb"redis\.p?call\('([A-Z]+)'"

_IN_OLD_SCRIPT: Final = r"(?s)ERR Error running script .*: -?((?:OOM|READONLY|MISCONF|NOREPLICAS|MASTERDOWN|WRONGTYPE)\b.*)"
"""The error of a command in a script, as Redis before 7.0 wraps it."""


def failure_of(reply: ServerReply, commands: Callable[[], Commands] = tuple) -> Failure:
    """Classify an error reply by its first word; its text is dropped (see `ServerReply`).

    Args:
        reply: the error reply.
        commands: returns the commands that it is a reply to, for messages where the server does not name one.
    """
    text = str(reply)[:_TEXT]
    if inner := re.match(_IN_OLD_SCRIPT, text):
        text = inner[1]
    word = text.partition(" ")[0]
    if word in _UNAVAILABLE:
        return Failure(CacheUnavailable, word, _UNAVAILABLE[word], retryable=True)
    if word in {"NOAUTH", "WRONGPASS"}:
        problem = "the server rejected the login: check user and password"
        return Failure(CacheLoginError, "BAD_CREDENTIALS", problem)
    if word == "NOPERM" or any(phrase in text for phrase in _IN_SCRIPT):
        return may_not_run(text, commands)
    if text.startswith("ERR max number of clients"):
        problem = "the server has reached its connection limit: raise its maxclients"
        return Failure(CacheUnavailable, "CONNECT_FAILED", problem, retryable=True)
    if unknown := re.match(_UNKNOWN, text):
        found = _ours(unknown)
        return _lacking([found] if found else _names_in(commands()))
    code = (
        word if word.isascii() and word.isalpha() and word.isupper() and len(word) < 33 else "ERR"
    )
    address = _address_in(text) if word in _REDIRECTS else None
    problem = _SERVER_ERRORS.get(code, f"the server replied with the error {code}: check its log")
    if address is not None:
        problem = "the key is on another cluster node: set options.topology to cluster, or check that its nodes agree"
    return Failure(CacheServerError, code, problem, address=address)


def is_script_unknown(reply: ServerReply) -> bool:
    """Whether the server has executed nothing because its script cache lacks the script."""
    return str(reply).startswith("NOSCRIPT")


def refuses_evalsha(reply: ServerReply) -> bool:
    """Whether the server, or a proxy before it, has executed nothing because it does not allow EVALSHA."""
    return re.match(_EVALSHA_REFUSED, str(reply)[:_TEXT]) is not None


def may_not_run(text: str, commands: Callable[[], Commands] = tuple) -> Failure:
    """Classify a permission error. The message names what the user may not do, and the ACL rule that grants it."""
    named = re.search(_MAY_NOT_RUN, text)
    # Commands first: the text can contain the user's name, and so the words below.
    if named is not None or _MAY_NOT_RUN_IN_SCRIPT in text:
        found = _ours(named)
        names = [found] if found else _names_in(commands())
        rules = " ".join(f"+{name.lower()}" for name in names)
        problem = f"the user may not run {_one_of(names)}" + (rules and f": grant {rules}")
        if names in (["EVAL"], ["EVALSHA"]):
            problem += f"; {_WITHOUT['EVAL']}"
    elif "database" in text:
        problem = "the user may not use this database: grant db=NUMBER"
    elif "channel" in text:
        problem = (
            "the user may not use a channel: grant &CHANNEL (on sentinels: &+switch-master "
            "&+promoted-slave)"
        )
    elif "key" in text:
        using = ", ".join(_names_in(commands(), in_scripts=False)) or "a command"
        problem = (
            f"the user may not read or write the key of {using}: grant the keys of options.key_prefix, "
            "such as ~PREFIX*"
        )
    else:
        problem = "the user may not do this: check ACL LOG on the server"
    return Failure(CachePermissionError, "NOPERM", problem)


def _lacking(names: Iterable[str]) -> Failure:
    """The failure of a server that lacks a command, or one of several."""
    names = list(names)
    problem = f"the server lacks {_one_of(names)}"
    reasons = dict.fromkeys(
        _WITHOUT[command] for name in names if (command := name.partition("|")[0]) in _WITHOUT
    )
    if len(reasons) == 1:
        problem += f"; {next(iter(reasons))}"
    elif names:
        problem += ": use Redis 6.2 or newer, or Valkey"
    return Failure(CacheUnsupported, "UNSUPPORTED", problem)


def _one_of(names: list[str]) -> str:
    if not names:
        return "a command that this call needs"
    return names[0] if len(names) == 1 else f"one of {', '.join(names)}"


def _ours(match: re.Match[str] | None) -> str:
    """The command that a matched text names, if the library sends it; otherwise empty."""
    if match is None or match[1] is None or match[1].upper() not in _OURS:
        return ""
    return (match[1] + match[2]).upper()


def _names_in(commands: Commands, *, in_scripts: bool = True) -> list[str]:
    """The names of these commands. Those that a script runs replace EVAL."""
    names: dict[str, None] = {}
    for name, *arguments in commands:
        words = [str(name, "ascii")] if isinstance(name, bytes) else []
        if words == ["EVAL"] and in_scripts:
            source, *_ = arguments
            called = re.findall(_CALLED, source) if isinstance(source, bytes) else []
            # Some scripts run a command that is an argument.
            passed = [word for word in arguments[1:] if word in {b"GETDEL", b"UNLINK"}]
            words = [str(word, "ascii") for word in (*called, *passed) if isinstance(word, bytes)]
        names.update(dict.fromkeys(word for word in words if word in _OURS))
    return [name for name in names if name != "ASKING"]


def _address_in(redirection: str) -> Address | None:
    found = re.fullmatch(_REDIRECTION, redirection)
    if found is None or int(found["slot"]) >= _SLOTS:
        return None
    host, port = found["host"], found["port"]
    try:
        return parse_address(host, port) if host else ("", parse_port_number(port))
    except ValueError:
        return None

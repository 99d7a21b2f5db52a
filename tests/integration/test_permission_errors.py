"""Errors of refused commands name the command, key or channel, and what allows or avoids it."""

from __future__ import annotations

from collections.abc import Callable, Coroutine
from typing import TYPE_CHECKING, Any

import pytest

from async_redis_cache import AsyncRedisCache, CacheError, CachePermissionError, CacheUnsupported
from async_redis_cache._common.failures import Failure, ServerReply, failure_of
from async_redis_cache._protocol.command import CommandArgs
from async_redis_cache._protocol.lease_scripts import LEASE
from async_redis_cache._protocol.size_limit import BoundedRemove
from harness.apis import Api, configured
from harness.scripted_server import ScriptedServer

if TYPE_CHECKING:
    from harness import Server, StartServer

pytest_plugins = ["near_fixtures"]

Method = Callable[[AsyncRedisCache], Coroutine[Any, Any, Any]]
SECRETS = ("s3cret-key", "s3cret-value", "PASSWORD", "carol")
BY_COMMAND: dict[str, Method] = {
    "set": lambda cache: cache.store(None, "s3cret-key", "s3cret-value"),
    "mget": lambda cache: cache.retrieve(None, "s3cret-key"),
    "getdel": lambda cache: cache.remove(None, "s3cret-key"),
    "unlink": lambda cache: cache.remove_many(None, ["s3cret-key"]),
    "pexpire": lambda cache: cache.touch(None, "s3cret-key"),
    "scan": lambda cache: cache.clear(None),
    "eval": lambda cache: cache.retrieve_or_load(None, "other", lambda: "s3cret-value"),
}


async def refusal(cache: AsyncRedisCache, call: Method) -> CacheError:
    """The error that a call ends in, which has no secret in it."""
    with pytest.raises(CacheError) as caught:
        await call(cache)
    shown = f"{caught.value} {caught.value!r} {vars(caught.value)}"
    assert not any(secret in shown for secret in SECRETS)
    return caught.value


@pytest.fixture
def limited(private_server: StartServer) -> Server:
    """A server with a user that has all permissions under `p:`, until the test changes that."""
    return private_server(acl={"carol": "on >PASSWORD ~p:* &* +@all"})


@pytest.mark.parametrize("bound", [0, 10], ids=["unbounded", "bounded"])
@pytest.mark.parametrize("command", BY_COMMAND)
@pytest.mark.depends_on("server")
async def test_noperm_names_command_and_rule(
    limited: Server, api: Api, command: str, bound: int
) -> None:
    """NOPERM of a command says which, or of which its script has one, and the rule that grants it."""
    url = limited.login_url("carol", "PASSWORD")
    async with configured(url, api, key_prefix="p:", max_size=bound) as cache:
        await cache.store(None, "s3cret-key", "s3cret-value")
        with limited.client() as raw:
            raw.execute_command("ACL", "SETUSER", "carol", f"-{command}")
        error = await refusal(cache, BY_COMMAND[command])
    assert isinstance(error, CachePermissionError)
    assert error.message.startswith(f"{limited.host}:{limited.port}: the user may not run ")
    if bound and command in {"set", "getdel", "unlink", "pexpire"}:
        assert f"+{command}" in error.message or "+eval" in error.message
    else:
        assert f"may not run {command.upper()}: grant +{command}" in error.message


@pytest.mark.parametrize("bound", [0, 10], ids=["unbounded", "bounded"])
@pytest.mark.depends_on("server")
async def test_noperm_says_the_key_is_refused(limited: Server, api: Api, bound: int) -> None:
    """NOPERM of a key says so, with the command and the rule, and does not name the key."""
    url = limited.login_url("carol", "PASSWORD")
    async with configured(url, api, key_prefix="other:", max_size=bound) as cache:
        error = await refusal(cache, BY_COMMAND["mget"])
        assert "may not read or write the key of MGET" in error.message
        assert "~PREFIX*" in error.message
        error = await refusal(cache, BY_COMMAND["set"])
        assert f"may not read or write the key of {'EVAL' if bound else 'SET'}" in error.message
        error = await refusal(cache, BY_COMMAND["eval"])
        assert "may not read or write the key of " in error.message


@pytest.mark.parametrize("max_size", [0, 10])
@pytest.mark.depends_on("server")
async def test_read_only_user_opens(limited: Server, api: Api, max_size: int) -> None:
    """A read-only user can open the cache; a store says which permission is missing."""
    with limited.client() as raw:
        raw.execute_command("ACL", "SETUSER", "carol", "reset", "on", ">PASSWORD", "~p:*")
        raw.execute_command("ACL", "SETUSER", "carol", "+ping", "+mget")
    url = limited.login_url("carol", "PASSWORD")
    async with configured(url, api, key_prefix="p:", max_size=max_size) as cache:
        assert await cache.retrieve(None, "s3cret-key") is None
        error = await refusal(cache, BY_COMMAND["set"])
    assert f"grant {'+eval' if max_size else '+set'}" in error.message


async def test_noperm_of_database_names_select_at_open(limited: Server, api: Api) -> None:
    """A user without SELECT learns it from `open`."""
    with limited.client() as raw:
        raw.execute_command("ACL", "SETUSER", "carol", "-select")
    cache = configured(limited.login_url("carol", "PASSWORD", 1), api)
    error = await refusal(cache, lambda cache: cache.open(None))
    assert (error.code, "SELECT: grant +select" in error.message) == ("NOPERM", True)


@pytest.mark.parametrize("command", ["EVAL", "ZADD", "ZPOPMIN", "UNLINK"])
@pytest.mark.parametrize("required", [True, False])
@pytest.mark.depends_on("server")
async def test_open_raises_when_max_size_cannot_be_kept(
    private_server: StartServer, api: Api, command: str, required: bool
) -> None:
    """`open` of a bounded cache names the command that the server lacks, and the option."""
    server = private_server(config={"rename-command": f"{command} {command}-renamed"})
    cache = configured(server.url, api, max_size=10, require_connection=required)
    with pytest.raises(CacheUnsupported) as caught:
        await cache.open(None)
    assert f"lacks {command}" in str(caught.value)
    if command != "UNLINK":
        assert "options.max_size" in str(caught.value)
    assert not cache.is_open()
    async with configured(server.url, api, max_size=0) as unbounded:
        assert await unbounded.store(None, "key", 1) == 1


@pytest.mark.parametrize(
    ("command", "advice"),
    [
        ("GETDEL", "remove_many does not"),
        ("UNLINK", "Redis 4"),
        ("SCAN", "clear needs it"),
        ("EVAL", "use store, retrieve and remove without tags"),
    ],
)
@pytest.mark.depends_on("server")
async def test_unsupported_names_command(
    private_server: StartServer, api: Api, command: str, advice: str
) -> None:
    """A method that needs a command that the server lacks says which, and what to do."""
    server = private_server(config={"rename-command": f"{command} {command}-renamed"})
    async with configured(server.url, api, key_prefix="p:", max_size=0) as cache:
        error = await refusal(cache, BY_COMMAND[command.lower()])
    assert isinstance(error, CacheUnsupported)
    assert f"the server lacks {command}; " in error.message
    assert advice in error.message


@pytest.mark.parametrize(
    ("command", "reply", "named"),
    [
        ("HELLO", b"-ERR unknown command `HELLO`, with args beginning with: `3`\r\n", "HELLO"),
        ("CLIENT", b"-ERR unknown command 'client'\r\n", "CLIENT TRACKING"),
        (
            "CLIENT",
            b"-NOPERM this user has no permissions to run the 'client' command\r\n",
            "grant",
        ),
    ],
)
async def test_open_raises_when_near_cache_is_not_possible(
    command: str, reply: bytes, named: str
) -> None:
    """`open` with a near cache names what it needs and the option that disables it."""
    hello = {"HELLO": b"%1\r\n$6\r\nserver\r\n$5\r\nredis\r\n"}
    async with ScriptedServer(**hello | {command: reply}) as server:
        with pytest.raises(CacheUnsupported) as caught:
            await configured(server.url, near_cache_enabled=True, max_size=0).open(None)
    assert named in str(caught.value)
    assert "near_cache.enabled" in str(caught.value)
    assert "to false" in str(caught.value)


async def test_open_raises_when_server_is_no_cluster(server: Server) -> None:
    """`open` with `topology=cluster` on a single server names CLUSTER SLOTS, and the option."""
    cache = configured(server.url, topology="cluster", max_size=0)
    with pytest.raises(CacheUnsupported) as caught:
        await cache.open(None)
    assert "CLUSTER SLOTS" in str(caught.value)
    assert "options.topology" in str(caught.value)


def said(text: str, *commands: CommandArgs) -> Failure:
    return failure_of(ServerReply(text), lambda: commands)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (
            "NOPERM this user has no permissions to run the 'client|tracking' command",
            "may not run CLIENT|TRACKING: grant +client|tracking",
        ),
        (
            "NOPERM this user has no permissions to run the 'get' command or its subcommand",
            "may not run GET: grant +get",
        ),
        ("NOPERM User a key has no permissions to run the 'get' command", "may not run GET:"),
        ("NOPERM User my-channel has no permissions to run the 'set' command", "may not run SET:"),
        ("NOPERM No permissions to access a key", "the key of a command"),
        (
            "NOPERM this user has no permissions to access one of the channels used as arguments",
            "grant &CHANNEL",
        ),
        ("NOPERM No permissions to access a channel", "grant &CHANNEL"),
        ("NOPERM No permissions to access database", "grant db=NUMBER"),
        ("NOPERM something new", "check ACL LOG"),
        (
            "ERR ACL failure in script: User s has no permissions to run the 'set' command",
            "may not run SET: grant +set",
        ),
        (
            "NOPERM this user has no permissions to run the 's3cret' command",
            "may not run a command",
        ),
    ],
)
def test_noperm_by_text(text: str, message: str) -> None:
    """What each version of the servers says; no other word of it is repeated."""
    failure = said(text)
    assert (failure.kind, failure.code) == (CachePermissionError, "NOPERM")
    assert message in failure.message
    assert "s3cret" not in failure.message


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("ERR unknown command 'GETDEL', with args beginning with: 's3cret' ", "lacks GETDEL; "),
        ("ERR unknown command `getdel`, with args beginning with: `s3cret`, ", "lacks GETDEL; "),
        ("ERR unsupported command 'GETDEL'", "lacks GETDEL; "),
        ("ERR Unknown subcommand 'TRACKING'. Try CLIENT HELP.", "lacks a command"),
        ("ERR unknown command 's3cret'", "lacks a command"),
    ],
)
def test_unsupported_by_text(text: str, message: str) -> None:
    """What each version of the servers says; no other word of it is repeated."""
    failure = said(text)
    assert (failure.kind, failure.code) == (CacheUnsupported, "UNSUPPORTED")
    assert message in failure.message
    assert "s3cret" not in failure.message


def test_script_names_its_commands() -> None:
    """Where the server does not say which command of a script it means, all of them are named."""
    (lease,) = LEASE.encode([(b"s3cret", b"token", 1, b"", 0)])
    failure = said("ERR The user executing the script can't run this command or subcommand", lease)
    assert "+setrange" in failure.message
    (remove,) = BoundedRemove(b"index", b"GETDEL").encode([(b"s3cret",)])
    failure = said("ERR The user executing the script can't run this command", remove)
    assert "grant +zcard +zrem +getdel" in failure.message
    failure = said("ERR Unknown Redis command called from script script: ab", remove)
    assert "lacks one of ZCARD, ZREM, GETDEL" in failure.message

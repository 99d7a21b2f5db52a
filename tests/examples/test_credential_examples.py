"""The examples of logins that change: against servers whose tokens end, without the cloud."""

from __future__ import annotations

import asyncio
import base64
import importlib
import json
import os
import subprocess
import sys
import threading
import time
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import pytest

from async_redis_cache import AsyncRedisCache
from harness import await_until
from harness.near import near_options, trusted
from harness.rotation import load_until

if TYPE_CHECKING:
    from collections.abc import Sized
    from types import ModuleType

    from harness import Client, Server, StartServer

KEYS = ("AKIDEXAMPLE", "wJalrXUtnFEMI/K7MDENG+bPxRfiCYEXAMPLEKEY")
MOMENT = datetime(2026, 3, 1, 12, 30, 45, tzinfo=UTC)
EXAMPLES = Path(__file__).parents[2] / "docs" / "examples"
RULES = ("on", "~*", "&*", "+@all")


@pytest.fixture
def example(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """An example, imported."""
    monkeypatch.setattr(sys, "path", [str(EXAMPLES), *sys.path])
    return importlib.import_module(request.param)


@pytest.fixture
def server(private_server: StartServer) -> Server:
    """A server that accepts the login of the administrator only."""
    return private_server(password="of the administrator")


@pytest.fixture
def raw(server: Server) -> Client:
    """The administrator."""
    return server.client()


@pytest.mark.parametrize("example", ["elasticache_iam"], indirect=True)
@pytest.mark.parametrize(
    ("is_serverless", "session", "signature"),
    [
        (False, None, "bbd5393568a277cdbc36114d92179e1834c8d64530623e80a255d17d0619e5d8"),
        (
            True,
            "session/token+=",
            "2fd9e1f2ab4bf2df434448725a924476c7fc383fee35beed95ccc8ff1582df8a",
        ),
    ],
    ids=["replication group", "serverless"],
)
def test_iam_example_signs_as_botocore_does(
    example: ModuleType, *, is_serverless: bool, session: str | None, signature: str
) -> None:
    """The signatures are those of `generate_presigned_url` of botocore 1.44.8 for the same request."""
    login = example.IamLogin(
        "shop",
        "Products",
        "eu-north-1",
        is_serverless=is_serverless,
        keys=lambda: example.Keys(*KEYS, session),
        clock=MOMENT.timestamp,
    )
    user, token = login()
    assert user == "shop"
    assert token.startswith("products/?Action=connect&")
    assert ("&ResourceType=ServerlessCache&" in token) is is_serverless
    assert token.endswith(f"&X-Amz-Signature={signature}")


@pytest.mark.parametrize("example", ["elasticache_iam"], indirect=True)
async def test_iam_example_follows_rotating_tokens(
    example: ModuleType, server: Server, raw: Client
) -> None:
    """Every connection has a token of its own, which is the only valid one: no load fails."""
    seconds = iter(range(10_000))
    login = example.IamLogin(
        "shop",
        "products",
        "eu-north-1",
        keys=lambda: example.Keys(*KEYS, None),
        clock=lambda: MOMENT.timestamp() + next(seconds),
    )
    tokens: list[str] = []

    def service() -> tuple[str, str]:
        user, token = login()
        tokens.append(token)
        raw.execute_command("ACL", "SETUSER", user, "reset", *RULES, f">{token}")
        return user, token

    url = server.login_url("", "")
    async with AsyncRedisCache.from_url(
        url, credential_provider=service, max_connections=1
    ) as cache:
        done = asyncio.Event()
        loading = asyncio.gather(*(load_until(done, cache) for _ in range(4)))

        def has_rotated() -> bool:
            # A connection that is being opened may escape.
            raw.execute_command("CLIENT", "KILL", "USER", "shop")
            return len(tokens) >= 9

        await await_until(has_rotated)
        done.set()
        assert sum(await loading) > 0
    assert len(set(tokens)) == len(tokens)


def test_iam_example_runs(private_server: StartServer) -> None:
    """As a program, with the keys in the environment."""
    server = private_server(acl={"shop": "on nopass ~* &* +@all", "default": "off"})
    environment = {
        "CACHE_URL": server.login_url("", ""),
        "CACHE_NAME": "products",
        "CACHE_USER": "shop",
        "AWS_REGION": "eu-north-1",
        "AWS_ACCESS_KEY_ID": KEYS[0],
        "AWS_SECRET_ACCESS_KEY": KEYS[1],
    }
    done = subprocess.run(
        [sys.executable, "-W", "error", EXAMPLES / "elasticache_iam.py"],
        env=os.environ | environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.stdout, done.stderr) == ("hello, world\n", "")


class Access(NamedTuple):
    """A token of azure-identity."""

    token: str
    expires_on: float


class Identity:
    """Issues tokens as azure-identity does: the same one until shortly before its end.

    The object id differs between tokens, so that the server shows which connection has which, and the test can end
    one with its connections.
    """

    def __init__(self, raw: Client, lifetime: float) -> None:
        self._raw = raw
        self._lifetime = lifetime
        self._lock = threading.Lock()
        self._access = Access("", 0.0)
        self.users: list[str] = []

    def get_token(self, *scopes: str) -> Access:
        """Return a token, of which a third of the lifetime is left at least."""
        assert scopes == ("https://redis.azure.com/.default",)
        with self._lock:
            if self._access.expires_on - time.time() < self._lifetime / 3:
                self._issue()
            return self._access

    def _issue(self) -> None:
        user = f"object-{len(self.users)}"
        expires_on = time.time() + self._lifetime
        token = jwt({"oid": user, "iat": time.time(), "exp": expires_on})
        self._raw.execute_command("ACL", "SETUSER", user, *RULES, f">{token}")
        self._access = Access(token, expires_on)
        self.users.append(user)


def has_length(items: Sized, number: int) -> bool:
    """Whether there are so many items, or more."""
    return len(items) >= number


def jwt(claims: dict[str, Any]) -> str:
    """A token that is not signed, as the server of the test does not verify it."""
    parts = ({"alg": "none", "typ": "JWT"}, claims)
    encoded = (base64.urlsafe_b64encode(json.dumps(part).encode()).decode() for part in parts)
    return ".".join(part.rstrip("=") for part in encoded) + ".none"


async def call_while_tokens_end(provider: Any, identity: Identity, server: Server) -> None:
    """Call, plain calls included, while three tokens end: each once no connection has it any more."""
    raw = server.client()

    def is_logged_out(user: str) -> bool:
        return all(client["user"] != user for client in raw.client_list())

    options: dict[str, Any] = near_options("") | {"credential_provider": provider}
    async with AsyncRedisCache.from_url(server.login_url("", ""), **options) as cache:
        await trusted(cache)
        done = asyncio.Event()

        async def call() -> None:
            while not done.is_set():
                assert await cache.store(None, "key", 1) == 1
                await cache.retrieve(None, "another")

        calling = asyncio.gather(*(call() for _ in range(4)))
        for number in range(3):
            await await_until(partial(has_length, identity.users, number + 2))
            await await_until(partial(is_logged_out, identity.users[number]))
            assert raw.execute_command("ACL", "DELUSER", identity.users[number]) == 1
        done.set()
        await calling
        await trusted(cache)


@pytest.mark.parametrize("example", ["entra_id"], indirect=True)
async def test_entra_example_logs_in_again_before_a_token_ends(
    example: ModuleType, server: Server, raw: Client
) -> None:
    """No call fails, and no connection is left with a token that ends."""
    identity = Identity(raw, lifetime=1.0)
    provider = example.EntraIdLogin(identity, renew_before=0.3)
    await call_while_tokens_end(provider, identity, server)


@pytest.mark.parametrize("example", ["entra_id"], indirect=True)
async def test_entra_example_requests_a_token_again(
    example: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    """After an error, which it reports."""
    monkeypatch.setattr(example, "RETRY_SECONDS", 0.0)
    first, second = (
        Access(jwt({"oid": oid}), end) for oid, end in (("first", 0.0), ("second", 1e9))
    )
    answers = iter([first, OSError(), second])

    class Failing:
        def get_token(self, *_: str) -> Access:
            answer = next(answers, None)
            if answer is None:
                # The thread lasts as long as the process.
                threading.Event().wait()
            if isinstance(answer, Access):
                return answer
            raise OSError

    reported: list[Any] = []
    login = example.EntraIdLogin(Failing())
    login.on_next(reported.append)
    login.on_error(reported.append)
    assert login.get_credentials() == ("first", first.token)
    await await_until(lambda: len(reported) == 2)
    assert isinstance(reported[0], OSError)
    assert reported[1] == ("second", second.token)


async def test_redis_entraid_logs_in_again_before_a_token_ends(server: Server, raw: Client) -> None:
    """The streaming provider of redis-entraid, with an identity provider that needs no cloud."""
    pytest.importorskip("redis_entraid")
    token_module = importlib.import_module("redis.auth.token")
    manager = importlib.import_module("redis.auth.token_manager")
    provider_module = importlib.import_module("redis_entraid.cred_provider")
    identity = Identity(raw, lifetime=1.0)

    class Issuer:
        def request_token(self, force_refresh: bool = False) -> Any:
            return token_module.JWToken(
                identity.get_token("https://redis.azure.com/.default").token
            )

    config = manager.TokenManagerConfig(0.7, 0, 1000, manager.RetryPolicy(3, 3))
    provider = provider_module.EntraIdCredentialsProvider(Issuer(), config)
    await call_while_tokens_end(provider, identity, server)

"""Errors: types and parents, messages, and pickling."""

from __future__ import annotations

import copy
import pickle
import traceback
from typing import TYPE_CHECKING, Any

import pytest
from pip_services4_commons.errors import (
    ApplicationException,
    BadRequestException,
    ConfigException,
    ConflictException,
    ConnectionException,
    InvalidStateException,
    InvocationException,
    UnauthorizedException,
    UnsupportedException,
)
from pip_services4_components.context import Context

import async_redis_cache
from async_redis_cache import (
    CacheAuthError,
    CacheConfigError,
    CacheError,
    CacheInputError,
    CacheLoadError,
    CacheLockError,
    CacheLoginError,
    CacheOutcomeUnknown,
    CacheOverloaded,
    CachePermissionError,
    CacheServerError,
    CacheStateError,
    CacheTimeout,
    CacheUnavailable,
    CacheUnsupported,
)
from harness.apis import APIS, Api, configured

if TYPE_CHECKING:
    from harness import Server, StartProxy

pytestmark = pytest.mark.depends_on("api")

PARENTS: dict[type[CacheError], tuple[type[Exception], ...]] = {
    CacheConfigError: (ConfigException, ValueError),
    CacheStateError: (InvalidStateException, RuntimeError),
    CacheInputError: (BadRequestException, ValueError),
    CacheLoadError: (InvocationException, RuntimeError),
    CacheLockError: (ConflictException, RuntimeError),
    CacheUnavailable: (ConnectionException,),
    CacheTimeout: (ConnectionException, TimeoutError),
    CacheOutcomeUnknown: (InvocationException,),
    CacheOverloaded: (ConnectionException,),
    CacheLoginError: (CacheAuthError, ConfigException),
    CachePermissionError: (CacheAuthError, UnauthorizedException),
    CacheServerError: (InvocationException,),
    CacheUnsupported: (UnsupportedException,),
}


@pytest.mark.parametrize("kind", PARENTS)
def test_parents(kind: type[CacheError]) -> None:
    """Each is a CacheError, the fitting exception of the framework, and a builtin where it helps."""
    error = kind("CODE", "what happened")
    for parent in (*PARENTS[kind], CacheError, ApplicationException, Exception):
        assert isinstance(error, parent)
    assert (error.code, error.message, error.trace_id) == ("CODE", "what happened", None)
    assert str(error) == "what happened"
    assert "what happened" in repr(error)
    assert kind.__name__ in repr(error)


def test_all_are_public() -> None:
    """Whatever may be raised can be imported from the package, and the table above has it."""
    public = {
        one
        for one in vars(async_redis_cache).values()
        if isinstance(one, type) and issubclass(one, CacheError)
    }
    assert public == {CacheError, CacheAuthError, *PARENTS}
    assert all(one.__name__ in async_redis_cache.__all__ for one in public)


@pytest.mark.parametrize("kind", PARENTS)
@pytest.mark.parametrize(
    "context", [None, "trace", Context.from_trace_id("trace")], ids=["none", "trace", "context"]
)
def test_copies(kind: type[CacheError], context: Any) -> None:
    """Pickled, copied or deep-copied, an error is the same, with its trace id."""
    error = kind("CODE", "what happened").traced(context)
    for protocol in range(pickle.HIGHEST_PROTOCOL + 1):
        copies = [pickle.loads(pickle.dumps(error, protocol)), copy.copy(error)]
        for one in [*copies, copy.deepcopy(error)]:
            assert type(one) is kind
            assert (one.code, one.message) == ("CODE", "what happened")
            assert one.trace_id == error.trace_id == ("trace" if context else None)
            assert str(one) == str(error)


@pytest.mark.parametrize("api", APIS)
async def test_each_call_raises_its_own_error(server: Server, proxy: StartProxy, api: Api) -> None:
    """Two calls with the same failure raise separate errors, each with its trace id and traceback."""
    network = proxy(server)
    async with configured(network.url, api, command_timeout=150, retries=0) as cache:
        network.black_hole()
        errors: list[CacheError] = []
        for trace_id in ("one", "two"):
            with pytest.raises(CacheTimeout) as caught:
                await cache.retrieve(trace_id, "key")
            errors.append(caught.value)
    assert errors[0] is not errors[1]
    assert [error.trace_id for error in errors] == ["one", "two"]


@pytest.mark.parametrize("api", APIS)
async def test_errors_keep_no_frames_alive(server: Server, proxy: StartProxy, api: Api) -> None:
    """No driver's error hangs on ours as cause or context, and no data of the caller in any text."""
    network = proxy(server)
    errors: list[CacheError] = []
    async with configured(network.url, api) as cache:
        await cache.ping(None)
        network.swallow_replies(times=50, ending="rst")
        for call in (
            cache.store("t", "secret-key", "secret-value"),
            cache.retrieve("t", "secret-key"),
            cache.remove("t", "secret-key"),
        ):
            with pytest.raises(CacheError) as caught:
                await call
            errors.append(caught.value)
        network.heal()
        network.refuse()
        network.cut()
        with pytest.raises(CacheError) as caught:
            await cache.retrieve("t", "secret-key")
        errors.append(caught.value)
    for error in errors:
        assert error.trace_id == "t"
        assert error.__cause__ is error.__context__ is None
        said = f"{error!r} {error} {vars(error)} {error.args}"
        said += "".join(traceback.format_exception(error))
        # The lines of this test, which a traceback quotes, name them; nothing else does.
        own = "".join(line for line in said.splitlines() if "cache." not in line)
        assert "secret-value" not in own
        assert not error.stack_trace

"""SQLAlchemy integration: invalidations that are sent when the transaction of a session commits.

Needs the extra `sqlalchemy`: `pip install 'async-redis-cache[sqlalchemy]'`.

    async with AsyncSession(engine) as session, session.begin():
        await session.execute(update(Product).where(Product.id == 7).values(price=19))
        bind(cache, session).delete("product:7")

An `AsyncSession` needs an `AsyncRedisCache` or one of its namespaces, and a `Session` a `RedisCache` or one of its.
"""

from __future__ import annotations

import asyncio
import weakref
from contextlib import suppress
from contextvars import copy_context
from functools import partial
from typing import Any, Final

try:
    from sqlalchemy import event
    from sqlalchemy.exc import MissingGreenlet
    from sqlalchemy.ext.asyncio import AsyncSession, async_scoped_session, async_session
    from sqlalchemy.orm import Session, SessionTransaction, scoped_session
    from sqlalchemy.util import await_only
except ImportError as _error:
    raise ImportError(
        "async_redis_cache.sqlalchemy needs the extra 'sqlalchemy': "
        "pip install 'async-redis-cache[sqlalchemy]'"
    ) from _error

from async_redis_cache._api.bound_cache import Bindable, BoundCache, Invalidations, is_async
from async_redis_cache._common.tasks import OwnedTasks

__all__ = ["AnySession", "BoundCache", "bind"]

AnySession = Session | AsyncSession | scoped_session[Any] | async_scoped_session[Any]
"""The sessions that a cache can be bound to."""

_TRANSACTIONS: Final = "async_redis_cache.transactions"
"""The key in `Session.info`."""
_SENDING: Final = OwnedTasks()
"""Invalidations of committed transactions. They are sent even if the call of `commit` is cancelled."""


def bind(cache: Bindable, session: AnySession) -> BoundCache:
    """Bind a cache or a namespace to a session: what is deleted or invalidated through the result is sent when the session commits.

    It is dropped when the session rolls back, and with a savepoint (`begin_nested`) that is rolled back. `commit`
    returns after the server has acknowledged the invalidations. If they fail, `commit` does not raise: they
    are pending invalidations of the cache, or an error is logged. If the outcome of the commit itself is unknown, because
    it was cancelled, the connection was lost or a `before_commit` event raised, they are sent too.

    It costs little: bind wherever you need it. The session may be reused for any number of transactions.

    Args:
        cache: an open cache, or a namespace of one; an asynchronous one for an `AsyncSession`, or a synchronous one for a `Session`.
        session: a session, or the registry of scoped sessions. The session of an `AsyncSession` that ORM events get
            is an `AsyncSession` too.

    Raises:
        TypeError: one of them is asynchronous and the other synchronous.
    """
    inner = _inner(session)
    session_is_async = async_session(inner) is not None
    if is_async(cache) is not session_is_async:
        kind = type(cache).__name__
        raise TypeError(
            f"an AsyncSession needs an AsyncRedisCache or a Namespace, not {kind}: see RedisCache.as_async()"
            if session_is_async
            else f"a Session needs a RedisCache or a SyncNamespace, not {kind}: see AsyncRedisCache.as_sync()"
        )
    transactions = _known_transactions(inner) or _new_transactions(inner)
    transactions.is_async = session_is_async
    return BoundCache(cache, partial(transactions.record, inner))


def _inner(session: AnySession) -> Session:
    """The synchronous session, which has the events."""
    match session:
        case scoped_session():
            current: Session = session()
            return current
        case async_scoped_session():
            of_task: AsyncSession = session()
            return of_task.sync_session
        case AsyncSession():
            return session.sync_session
        case _:
            return session


class _Transactions:
    """The invalidations that were recorded in the transactions of a session in progress, savepoints included.

    Args:
        session: of which only a weak reference is kept.

    Attributes:
        session: returns the session.
        is_async: whether it is the inner session of an `AsyncSession`.
    """

    def __init__(self, session: Session) -> None:
        self.session = weakref.ref(session)
        self.is_async = False
        self._recorded: dict[SessionTransaction, Invalidations] = {}
        self._is_committing = False
        """Whether a COMMIT may have been sent to the database."""
        self._sending: asyncio.Task[None] | None = None

    def record(self, session: Session, invalidations: Invalidations) -> None:
        """Record invalidations for the innermost transaction in progress.

        Raises:
            RuntimeError: there is none. They would be lost, or sent with an unrelated transaction.
        """
        transaction = _innermost(session)
        if transaction is None:
            raise RuntimeError(
                "the session has not begun a transaction: change the database first, or invalidate the cache "
                "directly if the change is committed already"
            )
        self._recorded.setdefault(transaction, Invalidations()).merge(invalidations)

    def before_commit(self) -> None:
        """Note that the outermost transaction is about to be committed."""
        self._is_committing = True

    def after_failed_flush(self) -> None:
        """Note that no COMMIT is sent, since the flush before it has failed."""
        self._is_committing = False

    def after_commit(self, session: Session) -> None:
        """Send what was recorded, or leave it to the transaction that a released savepoint is in."""
        transaction = _innermost(session)
        recorded = None if transaction is None else self._recorded.pop(transaction, None)
        if transaction is None or recorded is None:
            return
        if transaction.nested:
            parent = _outer(transaction)
            self._recorded.setdefault(parent, Invalidations()).merge(recorded)
        else:
            self._send(recorded)

    def after_transaction_end(self, transaction: SessionTransaction) -> None:
        """Drop what was not sent, unless a COMMIT may have been executed. Wait for what is being sent."""
        recorded = self._recorded.pop(transaction, None)
        if transaction.parent is not None:
            return
        is_outcome_unknown, self._is_committing = self._is_committing, False
        if recorded is not None and is_outcome_unknown:
            self._send(recorded)
        # Not before: the session has returned its database connection to the pool.
        if self._sending is not None:
            sending, self._sending = self._sending, None
            # Outside of a greenlet, as when the inner session is closed by itself, there is no waiting.
            with suppress(MissingGreenlet):
                await_only(asyncio.shield(sending))

    def _send(self, recorded: Invalidations) -> None:
        if self.is_async:
            self._sending = _SENDING.spawn(recorded.send_async(), copy_context())
        else:
            recorded.send()


def _known_transactions(session: Session) -> _Transactions | None:
    transactions: _Transactions | None = session.info.get(_TRANSACTIONS)
    # A session may have been created with the `info` of another one.
    is_own = transactions is not None and transactions.session() is session
    return transactions if is_own else None


def _new_transactions(session: Session) -> _Transactions:
    transactions = session.info[_TRANSACTIONS] = _Transactions(session)
    return transactions


# Listeners of all sessions: one that is added to a session while that calls its listeners, as by a `before_commit` event
# that binds a cache, makes SQLAlchemy raise an error, and misses the commit in progress.


@event.listens_for(Session, "before_commit")
def _before_commit(session: Session) -> None:
    if session.get_nested_transaction() is None:
        (_known_transactions(session) or _new_transactions(session)).before_commit()


@event.listens_for(Session, "after_soft_rollback")
def _after_soft_rollback(session: Session, transaction: SessionTransaction) -> None:
    transactions = _known_transactions(session)
    # A flush is a subtransaction.
    if transactions is not None and transaction.parent is not None and not transaction.nested:
        transactions.after_failed_flush()


@event.listens_for(Session, "after_commit")
def _after_commit(session: Session) -> None:
    transactions = _known_transactions(session)
    if transactions is not None:
        transactions.after_commit(session)


@event.listens_for(Session, "after_transaction_end")
def _after_transaction_end(session: Session, transaction: SessionTransaction) -> None:
    transactions = _known_transactions(session)
    if transactions is not None:
        transactions.after_transaction_end(transaction)


def _innermost(session: Session) -> SessionTransaction | None:
    return session.get_nested_transaction() or session.get_transaction()


def _outer(transaction: SessionTransaction) -> SessionTransaction:
    """The savepoint or transaction that a savepoint is in, without the subtransactions of a flush."""
    parent = transaction.parent
    assert parent is not None  # noqa: S101
    while not parent.nested and parent.parent is not None:
        parent = parent.parent
    return parent

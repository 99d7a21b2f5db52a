"""SQLite databases with one table of prices, for the tests of transactions.

A test module takes the fixtures by `pytest_plugins = ["database_fixtures"]`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
from sqlalchemy import Connection, Engine, create_engine, event, text
from sqlalchemy.ext.asyncio import AsyncEngine, create_async_engine

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator
    from pathlib import Path

SCHEMA = (
    "CREATE TABLE price (product TEXT PRIMARY KEY, amount INTEGER NOT NULL)",
    "CREATE TABLE part (product TEXT REFERENCES price (product) DEFERRABLE INITIALLY DEFERRED)",
    "INSERT INTO price VALUES ('kettle', 1)",
)


def with_savepoints(engine: Engine) -> None:
    """Let SQLAlchemy begin transactions, as its documentation says: the driver would ignore savepoints."""

    @event.listens_for(engine, "connect")
    def leave_transactions(connection: Any, _: object) -> None:
        connection.isolation_level = None
        connection.execute("PRAGMA foreign_keys = ON")

    @event.listens_for(engine, "begin")
    def begin(connection: Connection) -> None:
        connection.exec_driver_sql("BEGIN")


@pytest.fixture
def engine(tmp_path: Path) -> Iterator[Engine]:
    """A database with the kettle at a price of 1."""
    engine = create_engine(f"sqlite:///{tmp_path}/shop.db")
    with_savepoints(engine)
    with engine.begin() as connection:
        for statement in SCHEMA:
            connection.execute(text(statement))
    yield engine
    engine.dispose()


@pytest.fixture
async def async_engine(engine: Engine) -> AsyncIterator[AsyncEngine]:
    """The same database for asyncio."""
    async_engine = create_async_engine(f"sqlite+aiosqlite:///{engine.url.database}")
    with_savepoints(async_engine.sync_engine)
    yield async_engine
    await async_engine.dispose()

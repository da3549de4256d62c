"""The way to a PostgreSQL server: a pool of connections, transactions, and what its errors mean.

Three kinds of fault, told apart here and nowhere else: what will not pass by itself (wrong password, missing
rights) is ``StoreUnusable``; what may (a server that restarts, a cable) is ``StoreUnavailable``; two
transactions that met in an unlucky order are simply done again.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import TYPE_CHECKING, Any, TypeVar

from echosched.errors import StoreError, StoreUnavailable, StoreUnusable

if TYPE_CHECKING:
    import psycopg
    from psycopg_pool import AsyncConnectionPool

_T = TypeVar("_T")
Connection = Any
Work = Callable[[Connection], Awaitable[_T]]

_TRIES = 5
_CALL_SECONDS = 20.0
"""How long one transaction may take before the connection counts as lost."""

_REFUSED = (
    ("password authentication failed", "check user and password in [cluster] dsn"),
    ("no password supplied", "add a password to [cluster] dsn, or use a .pgpass file"),
    ("authentication failed", "check the server's pg_hba.conf and user name map"),
    ("role ", "create the role, or name another one in [cluster] dsn"),
    ("database ", "create the database, or name another one in [cluster] dsn"),
    ("pg_hba.conf", "allow this host in the server's pg_hba.conf"),
    ("permission denied", "grant CONNECT on the database to this role"),
)


class Link:
    """A pool of connections to the schema *schema* of the server that *dsn* names.

    *most* bounds the connections that this process holds, without those that listen.
    """

    def __init__(self, dsn: str, *, schema: str, connect_seconds: float = 10.0, most: int = 5) -> None:
        self.dsn = dsn
        self.schema = schema
        self.place = place_of(dsn)
        self._connect_seconds = connect_seconds
        self._most = most
        self._pool: AsyncConnectionPool[Any] | None = None

    @property
    def pool(self) -> AsyncConnectionPool[Any]:
        """Return the pool; raises ``StoreError`` when the link is not open."""
        if self._pool is None:
            raise StoreError(f"{self.place}: the store is not open")
        return self._pool

    async def open(self) -> None:
        """Make the pool, after one connection has shown that the server lets us in."""
        from psycopg_pool import AsyncConnectionPool

        # psycopg_pool tells every failed attempt, once a second; one line for each change of state is ours to give.
        logging.getLogger("psycopg.pool").setLevel(logging.CRITICAL)
        async with self.lone_connection():
            pass
        self._pool = AsyncConnectionPool(
            self.dsn,
            kwargs=self._options(),
            min_size=1,
            max_size=self._most,
            timeout=_CALL_SECONDS / 2,
            max_idle=60.0,
            reconnect_timeout=5.0,
            configure=self.configure,
            open=False,
        )
        await self._pool.open()

    async def close(self) -> None:
        """Close all connections; closing twice is harmless."""
        pool, self._pool = self._pool, None
        if pool is not None:
            await pool.close(timeout=2.0)

    async def renew(self) -> None:
        """Replace connections that a fault has broken; raises ``StoreUnavailable`` while there is no server."""
        async with self.lone_connection():
            pass
        await self.pool.check()

    @contextlib.asynccontextmanager
    async def lone_connection(self) -> AsyncIterator[Any]:
        """Yield a connection of its own, in autocommit: to listen on, or to try the server."""
        import psycopg

        try:
            connection = await psycopg.AsyncConnection.connect(self.dsn, autocommit=True, **self._options())
        except psycopg.Error as error:
            raise self.translate(error, connecting=True) from error
        try:
            await self.configure(connection)
            yield connection
        except psycopg.Error as error:
            raise self.translate(error) from error
        finally:
            await connection.close()

    def _options(self) -> dict[str, Any]:
        # A host that is cut off must notice within seconds, in either direction: unanswered data by the user
        # time-out, silence on an idle connection by keep-alives.
        return {
            "connect_timeout": max(2, int(self._connect_seconds)),
            "keepalives_idle": 5,
            "keepalives_interval": 2,
            "keepalives_count": 3,
            "tcp_user_timeout": 8000,
            "application_name": "echosched",
        }

    async def configure(self, connection: psycopg.AsyncConnection[Any]) -> None:
        """Prepare a new connection."""
        await connection.set_autocommit(True)
        # A host that stops in the middle of a transaction must not keep the others from its rows for long.
        await connection.execute(
            "SELECT set_config('search_path', %s, false), set_config('lock_timeout', '10s', false),"
            " set_config('idle_in_transaction_session_timeout', '10s', false),"
            " set_config('statement_timeout', '30s', false)",
            (self.schema,),
        )

    async def transact(self, work: Work[_T], *, scripts: bool = False, single: bool = False) -> _T:
        """Return what *work* answers inside one transaction; once more where two of them got into each other's way.

        Statements whose answer nobody reads yet travel together (pipeline mode), which does not go with *scripts*
        of several statements. A *single* statement is a transaction by itself.
        """
        import psycopg
        from psycopg_pool import PoolTimeout

        for tries_left in range(_TRIES - 1, -1, -1):
            try:
                async with (
                    asyncio.timeout(_CALL_SECONDS),
                    self.pool.connection() as connection,
                    contextlib.nullcontext() if scripts or single else connection.pipeline(),
                    contextlib.nullcontext() if single else connection.transaction(),
                ):
                    return await work(connection)
            except (psycopg.errors.DeadlockDetected, psycopg.errors.SerializationFailure) as error:
                if not tries_left:
                    raise self.translate(error) from error
            except PoolTimeout as error:
                raise StoreUnavailable(
                    f"{self.place}: no connection within {_CALL_SECONDS / 2:g} s"
                ) from error
            except TimeoutError as error:
                raise StoreUnavailable(f"{self.place}: no answer within {_CALL_SECONDS:g} s") from error
            except psycopg.Error as error:
                raise self.translate(error) from error
        raise AssertionError("unreachable")

    def translate(self, error: Exception, *, connecting: bool = False) -> StoreError:
        """Return what *error* means, in a line for the operator."""
        import psycopg

        text = " ".join(str(error).split()) or type(error).__name__
        if connecting:
            said = text.rpartition("FATAL:")[2].strip()
            for words, cure in _REFUSED:
                if "FATAL:" in text and words in said:
                    return StoreUnusable(f"{self.place}: {said} ({cure})")
            return StoreUnavailable(
                f"{self.place}: cannot be reached: {said} (is PostgreSQL up, and [cluster] dsn right?)"
            )
        if isinstance(error, psycopg.errors.InsufficientPrivilege):
            return StoreUnusable(f"{self.place}: {text} (grant CREATE on the database to this role)")
        outside = (
            psycopg.OperationalError,
            psycopg.InterfaceError,
            psycopg.errors.ReadOnlySqlTransaction,
        )
        if isinstance(error, outside):
            return StoreUnavailable(f"{self.place}: {text}")
        return StoreError(f"{self.place}: {text}")


def place_of(dsn: str) -> str:
    """Return where *dsn* leads to, without its password; raises ``StoreUnusable`` for a malformed one."""
    try:
        import psycopg
        from psycopg.conninfo import conninfo_to_dict
    except ImportError as error:
        raise StoreUnusable(
            f"[cluster]: {error.name} is missing (pip install 'echosched[cluster]')"
        ) from error
    try:
        parts = conninfo_to_dict(dsn)
    except psycopg.Error:
        # Not its words, and no "from": they quote the address, which may hold a password.
        raise StoreUnusable("[cluster] dsn: is malformed (postgresql://USER@HOST/DATABASE)") from None
    host = str(parts.get("host") or parts.get("hostaddr") or "local socket")
    port = parts.get("port")
    where = host if port is None or host.startswith("/") else f"{host}:{port}"
    return f"postgresql://{where}/{parts.get('dbname') or ''}"

"""Connections: one way to open them, with every setting pinned that shapes a value's text or ends a session.

A server's own settings (datestyle, statement_timeout, search_path ...) never reach a job: they are
overridden in the startup packet, and those that only newer versions know right after it.
Driver errors become errors of `engine.errors` here and nowhere else.
"""

from __future__ import annotations

import contextlib
import ipaddress
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import psycopg

from prefect_datasync.engine.errors import (
    CheckFailed,
    ConnectFailed,
    DataError,
    DatasyncError,
    ProtocolError,
    SlotLost,
    TargetFull,
    TransientError,
)
from prefect_datasync.engine.postgres.severing import within

CONNECT_S = 10  #: how long a server may take to let us in
Connection = psycopg.Connection[tuple[Any, ...]]

#: The first shape the text of values, on its way out or in; `row_security` turns a silently partial copy into an error.
PINNED = {
    "datestyle": "ISO,YMD",
    "intervalstyle": "postgres",
    "extra_float_digits": "3",
    "bytea_output": "hex",
    "timezone": "UTC",
    "search_path": "pg_catalog",
    "lc_monetary": "C",
    "xmloption": "content",
    "array_nulls": "on",
    "quote_all_identifiers": "off",
    "standard_conforming_strings": "on",
    "row_security": "off",
    "statement_timeout": "0",
    "lock_timeout": "0",
    "idle_in_transaction_session_timeout": "0",
    "synchronous_commit": "on",
    "default_transaction_read_only": "off",
    "default_transaction_isolation": r"read\ committed",
    # The server lets a lost client's locks go as soon as we notice a lost server.
    "tcp_keepalives_idle": "10",
    "tcp_keepalives_interval": "5",
    "tcp_keepalives_count": "3",
    "tcp_user_timeout": "30000",
}
#: Since which server version a further timeout exists, and so must be off.
PINNED_SINCE = {140000: "idle_session_timeout", 170000: "transaction_timeout"}


@dataclass(frozen=True, slots=True)
class Server:
    """How to reach one database. `host` may be a folder (Unix socket), or a list as `db1,db2:5433`, of
    which the server is meant that takes writes; empty `sslmode` means `disable` on this machine and
    `prefer` elsewhere."""

    host: str
    port: int
    dbname: str
    user: str
    password: str = field(default="", repr=False)
    sslmode: str = ""
    sslrootcert: str = ""
    sslcert: str = ""
    sslkey: str = ""

    @property
    def places(self) -> tuple[tuple[str, int], ...]:
        """Host and port of each server that may be meant."""
        return tuple(_place(each.strip(), self.port) for each in self.host.split(","))

    @property
    def local(self) -> bool:
        """Whether the server is on this machine, so that nothing can listen in between."""
        return all(_is_local(host) for host, _ in self.places)

    @property
    def address(self) -> str:
        """For messages: where it is, never a secret."""
        places = ",".join(f"{host}:{port}" for host, port in self.places)
        return f"{self.user}@{places}/{self.dbname}"


def _place(text: str, port: int) -> tuple[str, int]:
    host, colon, own = text.rpartition(":")
    if colon and own.isdigit() and ":" not in host:  # two colons make an IPv6 address
        return host, int(own)
    return text, port


def _is_local(host: str) -> bool:
    if host.startswith(("/", "@")) or host == "localhost":
        return True
    with contextlib.suppress(ValueError):
        return ipaddress.ip_address(host).is_loopback
    return False


def connect(
    server: Server, application: str, *, replication: bool = False, autocommit: bool = True
) -> Connection:
    """An open connection with pinned settings.

    Args:
        application: the `application_name` to show, e.g. `datasync orders copy`.
        replication: speak to a walsender of the database instead of a backend.

    Raises:
        ConnectFailed: the server answered no: password, database, TLS, `pg_hba.conf`.
        TransientError: there was no answer, or the server is starting or full.
    """
    options: dict[str, Any] = {
        "host": ",".join(host for host, _ in server.places),
        "port": ",".join(str(port) for _, port in server.places),
        "target_session_attrs": "read-write" if len(server.places) > 1 else None,
        "dbname": server.dbname,
        "user": server.user,
        "password": server.password or None,
        "sslmode": server.sslmode or ("disable" if server.local else "prefer"),
        "sslrootcert": server.sslrootcert or None,
        "sslcert": server.sslcert or None,
        "sslkey": server.sslkey or None,
        "gssencmode": "disable",
        "connect_timeout": CONNECT_S,
        "keepalives": 1,
        "keepalives_idle": 10,
        "keepalives_interval": 5,
        "keepalives_count": 3,
        "tcp_user_timeout": 30_000,
        "client_encoding": "UTF8",
        "application_name": application[:63],
        "options": " ".join(f"-c {name}={value}" for name, value in PINNED.items()),
        "fallback_application_name": "datasync",
    }
    if replication:
        options["replication"] = "database"
    try:
        # A walsender speaks only the simple query protocol, and psycopg would prepare a
        # statement the sixth time it sees it: hence prepare_threshold.
        connection = psycopg.connect(
            autocommit=autocommit,
            prepare_threshold=None,
            **{k: v for k, v in options.items() if v is not None},
        )
    except psycopg.Error as exc:
        raise _connect_error(server, exc) from None  # the cause may repeat the conninfo
    try:
        with within(CONNECT_S, connection):
            for since, name in PINNED_SINCE.items():
                if connection.info.server_version >= since:
                    connection.execute(f"SET {name} = 0".encode())
            if connection.info.parameter_status("is_superuser") == "on":
                connection.execute("SET lc_messages = 'C'")  # others may not
            if not autocommit:
                connection.commit()
    except psycopg.Error as exc:
        connection.close()
        raise translated(exc, server.address) from exc
    return connection


_NOT_YET = (
    "the database system is",
    "too many clients",
    "too many connections",
    "remaining connection slots",
    "number of requested standby connections",
    "terminating connection",
    "pg_hba.conf rejects connection",  # kept last: an operator may be editing it
)
#: Up to 15, and from 16 on.
_NO_REPLICATION = ("replication role to start walsender", "permission denied to start WAL sender")


def _connect_error(server: Server, exc: psycopg.Error) -> DatasyncError:
    text = " ".join(str(exc).split())
    if server.password:
        text = text.replace(server.password, "***")
    if any(part in text for part in _NO_REPLICATION):
        return CheckFailed(
            f"the role {server.user} at {server.address} may not replicate",
            do=f'run `ALTER ROLE "{server.user}" REPLICATION` at the source, then `datasync retry JOB`',
            code="RIGHT_MISSING",
        )
    answered = "FATAL:" in text or "SSL" in text or "certificate" in text
    if answered and not any(part in text for part in _NOT_YET[:-1]):
        return ConnectFailed(
            f"cannot connect to {server.address}: {text[-300:]}",
            do="correct user, password, database or TLS in the connection's block, or pg_hba.conf;"
            " a pooler cannot be used, connect to the server directly",
        )
    return TransientError(
        f"cannot reach {server.address}: {text[-300:]}",
        do="check host, port and that the server is up",
        code="UNREACHABLE",
    )


#: SQLSTATE prefixes that heal by waiting or by connecting again.
_TRANSIENT = ("08", "57P", "40", "55P03", "57014", "53", "25006", "58")
_RIGHTS = ("42501", "28000", "28P01")
#: What logical decoding says of a table that its slot does not see: see `slot.catalog_changed`.
_UNREADABLE = re.compile("could not map file(node|number)|pg_attribute catalog is missing")


def translated(exc: psycopg.Error, where: str) -> DatasyncError:
    """The driver's error as one of ours: code, object names and SQLSTATE, never DETAIL or row values.

    Args:
        where: what was being done, e.g. `apply to public.orders`.
    """
    state = exc.sqlstate
    diag = exc.diag
    named = ".".join(
        n for n in (diag.schema_name, diag.table_name, diag.column_name, diag.constraint_name) if n
    )
    # The primary message of a data error (class 22) quotes the value itself.
    said = (
        "" if state and state[:2] in ("22", "23") else f" ({diag.message_primary or 'no answer'})"
    )
    what = f"{where}: SQLSTATE {state or 'none'}{said}{' at ' + named if named else ''}"
    if state is None and isinstance(exc, psycopg.OperationalError):
        return TransientError(f"{where}: the connection was lost")
    if state == "55000" and any(
        part in (diag.message_primary or "") + (diag.message_detail or "")
        for part in (
            "cannot read from logical replication slot",
            "can no longer get changes",
            "can no longer access replication slot",
            "invalidated",
        )
    ):
        return SlotLost(what, effect="The job cannot continue from its position")
    if state == "XX000" and _UNREADABLE.search(diag.message_primary or ""):
        return SlotLost(
            what,
            effect="The slot does not know of a change of the source's tables, and reading it again"
            " does not help",
            code="SLOT_UNREADABLE",
        )
    if state == "42883" and "no binary output function" in (diag.message_primary or ""):
        return ProtocolError(what, code="FORMAT_CHANGED")
    if too_long := value_too_long(what, f"{diag.message_primary} {diag.message_detail}"):
        return too_long
    if state == "55006":
        return TransientError(what, code="SLOT_IN_USE", do="end the other reader of the slot")
    if state == "53100":
        return TargetFull(what, effect="The transaction was rolled back")
    if state and state in _RIGHTS:
        return CheckFailed(what, code="RIGHT_MISSING", do="grant the right; see `datasync check`")
    if state and state.startswith(_TRANSIENT):
        return TransientError(what)
    return DataError(
        what,
        effect="The transaction was rolled back",
        do="compare the table's definition on both servers; then retry",
    ).refused(state or "")


def value_too_long(what: str, said: str) -> DataError | None:
    """The error of a value that is longer than a message of text may be, if that is what the server *said*."""
    if "invalid memory alloc request size" not in said and "string buffer" not in said:
        return None
    return DataError(
        what,
        effect="A value is longer than a message of text may be; its row was not copied or applied",
        do="let the rows travel in binary: both servers of one major version, and no table of the job with"
        " columns of other than built-in types; or exclude the table; then `datasync restart JOB`",
        code="VALUE_TOO_LONG",
    )


@contextlib.contextmanager
def at_one_moment(connection: Connection) -> Iterator[None]:
    """All statements inside the block see the database as of one moment; as the open transaction does, if any."""
    if connection.info.transaction_status != psycopg.pq.TransactionStatus.IDLE:
        yield
        return
    with connection.transaction():
        connection.execute("set transaction isolation level repeatable read, read only")
        yield


@contextlib.contextmanager
def translating(where: str) -> Iterator[None]:
    """Driver errors inside the block leave it as ours; *where* says what was being done."""
    try:
        yield
    except psycopg.Error as exc:
        raise translated(exc, where) from exc

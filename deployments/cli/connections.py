"""`datasync source` and `datasync target`: save connections as blocks.

A password is never an argument, where every process of the machine and the shell's history would see it.
"""

from __future__ import annotations

import os
import re
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal
from urllib.parse import parse_qsl, unquote, urlsplit

from cyclopts import App, Parameter

from prefect_datasync.deployments.cli.output import Json, UsageError, answer, say, show_table
from prefect_datasync.engine.errors import ConfigError

if TYPE_CHECKING:
    from prefect_datasync.blocks import PostgresSource, PostgresTarget
    from prefect_datasync.engine.postgres.session import Server

Side = Literal["source", "target"]
SslMode = Literal["disable", "allow", "prefer", "require", "verify-ca", "verify-full"]
NAME = re.compile(r"[a-z0-9]([a-z0-9-]{0,98}[a-z0-9])?")
IN_DSN = ("sslmode", "sslrootcert", "sslcert", "sslkey")  #: what a DSN's query may hold

Dsn = Annotated[str | None, Parameter(help="postgresql://user@host:port/dbname, without password.")]
PasswordEnv = Annotated[
    str | None, Parameter(help="Environment variable that holds the password.", negative="")
]
PasswordFile = Annotated[
    Path | None, Parameter(help="File whose first line is the password.", negative="")
]
Host = Annotated[
    str | None,
    Parameter(help="Host, or several as db1,db2:5433: the one is used that takes writes."),
]
NoPassword = Annotated[
    bool, Parameter(name="--no-password", negative="", help="The server asks for none.")
]
NoTest = Annotated[bool, Parameter(name="--no-test", negative="", help="Do not connect now.")]
Replace = Annotated[bool, Parameter(negative="", help="Replace a connection of the same name.")]


def connections(side: Side) -> App:
    """The commands of one side."""
    app = App(name=side, help=f"Connections to {side} databases, saved as Prefect blocks.")

    def add(
        name: str,
        *,
        dsn: Dsn = None,
        host: Host = None,
        port: int | None = None,
        dbname: str | None = None,
        user: str | None = None,
        password_env: PasswordEnv = None,
        password_file: PasswordFile = None,
        no_password: NoPassword = False,
        sslmode: SslMode | None = None,
        sslrootcert: str | None = None,
        sslcert: str | None = None,
        sslkey: str | None = None,
        no_test: NoTest = False,
        replace: Replace = False,
        json: Json = False,
    ) -> None:
        options = {
            "host": host,
            "port": port,
            "dbname": dbname,
            "user": user,
            "sslmode": sslmode,
            "sslrootcert": sslrootcert,
            "sslcert": sslcert,
            "sslkey": sslkey,
        }
        fields = {**_from_dsn(dsn), **{k: v for k, v in options.items() if v is not None}}
        missing = [f"--{field}" for field in ("host", "dbname", "user") if not fields.get(field)]
        if missing:
            raise UsageError(f"{', '.join(missing)} is missing", do="give it, or a --dsn")
        if not NAME.fullmatch(name):
            raise UsageError(
                f"`{name[:60]}` cannot be the name of a connection",
                do="use lower-case letters, digits and dashes",
            )
        password = "" if no_password else _password(password_env, password_file)
        from prefect_datasync.deployments.control_plane import control_plane

        with control_plane():
            block = _make(side, {**fields, "password": password})
            server = block.server()
            found = None if no_test else look(server, side)
            _save(block, name, replace)
        saved = {"name": name, "side": side, "address": server.address, "server": found}
        answer(saved, json, lambda: _tell(name, side, server.address, found))

    add.__doc__ = f"Test a connection and save it as a {side}."

    def list_(*, json: Json = False) -> None:
        found = _saved(side)
        answer(
            found,
            json,
            lambda: show_table(
                ("name", "address", "sslmode"),
                [(each["name"], each["address"], each["sslmode"]) for each in found],
                nothing=f"No {side} is saved. Do: datasync {side} add NAME.",
            ),
        )

    list_.__doc__ = f"Show the saved {side}s, without passwords."
    app.command(add, name="add")
    app.command(list_, name="list")
    return app


# -- reading -------------------------------------------------------------------------------------


def _from_dsn(dsn: str | None) -> dict[str, Any]:
    if dsn is None:
        return {}
    parts = urlsplit(dsn)
    query = dict(parse_qsl(parts.query))
    if parts.password is not None or "password" in query:
        raise UsageError(
            "the DSN holds a password; arguments are visible to every process of this machine and"
            " stay in the shell's history",
            do="change that password if others use the machine, take it out of the DSN, and give"
            " --password-env VAR or --password-file FILE",
            code="PASSWORD_IN_ARGUMENT",
        )
    unknown = sorted(query.keys() - set(IN_DSN))
    if parts.scheme not in ("postgresql", "postgres") or unknown:
        raise UsageError(
            f"the DSN cannot be used: {', '.join(unknown) or 'it is no postgresql:// URL'}",
            do="write postgresql://user@host:port/dbname, with sslmode and its files at most",
        )
    hosts = parts.netloc.rpartition("@")[2]
    try:
        port = None if "," in hosts else parts.port
    except ValueError:
        raise UsageError("the DSN's port is not a number from 1 to 65535") from None
    fields = {
        "host": unquote(hosts if "," in hosts else parts.hostname or ""),
        "port": port,
        "dbname": unquote(parts.path.lstrip("/")),
        "user": unquote(parts.username or ""),
        **query,
    }
    return {name: value for name, value in fields.items() if value}


def _password(variable: str | None, file: Path | None) -> str:
    if variable is not None and file is not None:
        raise UsageError("both --password-env and --password-file are given", do="give one")
    if variable is not None:
        if variable not in os.environ:
            raise UsageError(f"the environment has no variable {variable}")
        return os.environ[variable]
    if file is not None:
        try:
            lines = file.read_text().splitlines()
        except (OSError, UnicodeDecodeError) as exc:
            raise UsageError(f"the password file {file} cannot be read") from exc
        return lines[0] if lines else ""
    if not sys.stdin.isatty():
        raise UsageError(
            "no password is given, and there is no terminal to ask for it",
            do="give --password-env VAR, --password-file FILE or --no-password",
            code="PASSWORD_MISSING",
        )
    from getpass import getpass

    return getpass("Password: ")  # asked on the terminal: standard output stays clean


def look(server: Server, side: Side) -> dict[str, Any]:
    """What a server says of itself; it can be connected to.

    Raises:
        ConnectFailed, TransientError: it cannot.
    """
    from prefect_datasync.engine.postgres.session import connect, translating

    with connect(server, f"datasync {side} test") as connection, translating("look at the server"):
        row = connection.execute(
            "select current_setting('server_version'), current_setting('wal_level'),"
            " rolsuper or rolreplication, pg_is_in_recovery(),"
            " pg_database_size(current_database())"
            " from pg_roles where rolname = current_user"
        ).fetchone()
    names = ("version", "wal_level", "may_replicate", "standby", "bytes")
    return dict(zip(names, row or (), strict=False))


# -- saving --------------------------------------------------------------------------------------


def _kind(side: Side) -> type[PostgresSource] | type[PostgresTarget]:
    from prefect_datasync.blocks import PostgresSource, PostgresTarget

    return PostgresSource if side == "source" else PostgresTarget


def _make(side: Side, fields: dict[str, Any]) -> PostgresSource | PostgresTarget:
    from pydantic import ValidationError

    try:
        return _kind(side)(**fields)
    except ValidationError as exc:
        wrong = "; ".join(f"{'.'.join(map(str, e['loc']))}: {e['msg']}" for e in exc.errors())
        raise ConfigError(f"the connection cannot be used: {wrong}") from None


def _save(block: PostgresSource | PostgresTarget, name: str, replace: bool) -> None:
    try:
        block.save(name, overwrite=replace)
    except ValueError as exc:
        if "already in use" not in str(exc):
            raise
        raise ConfigError(
            f"a connection named `{name}` exists", do="choose another name, or give --replace"
        ) from None


def _saved(side: Side) -> list[dict[str, Any]]:
    from prefect_datasync.deployments.control_plane import control_plane
    from prefect_datasync.engine.postgres.session import Server

    slug = _kind(side)._block_type_slug
    assert slug is not None
    with control_plane() as client:
        documents = client.read_block_documents_by_type(slug, include_secrets=False)
    found = []
    for document in sorted(documents, key=lambda each: each.name or ""):
        data = document.data
        shown = {
            field: data.get(field) for field in ("host", "port", "dbname", "user", "sslmode")
        } | {"port": data.get("port", 5432)}
        where: tuple[Any, ...] = tuple(shown[each] for each in ("host", "port", "dbname", "user"))
        address = Server(*where).address
        found.append({"name": document.name, "address": address, **shown})
    return found


def _tell(name: str, side: Side, address: str, found: dict[str, Any] | None) -> None:
    print(f"{side} `{name}` is saved: {address}")
    if found is None:
        say("It was not tested.")
        return
    print(f"PostgreSQL {found['version']}, wal_level {found['wal_level']}")
    if side == "source" and found["wal_level"] != "logical":
        say("To follow changes it needs: ALTER SYSTEM SET wal_level = 'logical'; then restart it.")
    if side == "source" and not found["may_replicate"]:
        say("To follow changes the role needs: ALTER ROLE ... REPLICATION, by a superuser.")

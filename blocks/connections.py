"""Connections as blocks: the only place where a secret is stored.

A job refers to them by id, so no password is ever a parameter, and a changed password is used by the
next attempt of every job. Prefect masks the password in its UI and API; a client that asks for secrets
gets them, so a Prefect server needs authentication of its own.
"""

from __future__ import annotations

from typing import Any, ClassVar, Literal

from prefect.blocks.core import Block
from pydantic import BaseModel, ConfigDict, Field, GetJsonSchemaHandler, HttpUrl, SecretStr
from pydantic_core import CoreSchema

from prefect_datasync.engine.postgres.session import Server

SslMode = Literal["", "disable", "allow", "prefer", "require", "verify-ca", "verify-full"]


class _Connection(BaseModel):
    """The fields that both sides have; not a block itself, or Prefect would register it."""

    model_config = ConfigDict(extra="forbid")

    host: str = Field(
        description="Host name or address of the server, or the folder of its socket. Of several, as"
        " db1,db2:5433, the one is used that takes writes."
    )
    port: int = Field(default=5432, ge=1, le=65535, description="Port of the server.")
    dbname: str = Field(description="Name of the database.")
    user: str = Field(description="Role to log in as.")
    password: SecretStr = Field(
        default=SecretStr(""), description="Password of the role; empty for other ways to log in."
    )
    sslmode: SslMode = Field(
        default="",
        description="How TLS is used; empty means disable on this machine and prefer elsewhere.",
    )
    sslrootcert: str = Field(
        default="", description="File with the authorities that verify-ca and verify-full trust."
    )
    sslcert: str = Field(default="", description="File with the client's certificate.")
    sslkey: str = Field(default="", description="File with the client's key.")

    @classmethod
    def __get_pydantic_json_schema__(
        cls, core_schema: CoreSchema, handler: GetJsonSchemaHandler
    ) -> dict[str, Any]:
        """The schema without `additionalProperties: false`, which `forbid` brings.

        Prefect's server checks a deployment's parameters against it, and would refuse the reference
        to a block, `{"$ref": ...}`, as an unknown property.
        """
        schema = handler.resolve_ref_schema(handler(core_schema))
        schema.pop("additionalProperties", None)
        return schema

    def server(self) -> Server:
        """The connection in the form that the engine takes."""
        return Server(
            host=self.host,
            port=self.port,
            dbname=self.dbname,
            user=self.user,
            password=self.password.get_secret_value(),
            sslmode=self.sslmode,
            sslrootcert=self.sslrootcert,
            sslcert=self.sslcert,
            sslkey=self.sslkey,
        )


class PostgresSource(_Connection, Block):
    """A PostgreSQL database to copy from and to follow. The role needs REPLICATION and SELECT.

    Example:
        Load a stored source and look at it:
        ```python
        from prefect_datasync import PostgresSource

        source = PostgresSource.load("BLOCK_NAME")
        print(source.server().address)
        ```
    """

    model_config = ConfigDict(extra="forbid")

    _block_type_name: ClassVar[str | None] = "Datasync Postgres Source"
    _block_type_slug: ClassVar[str | None] = "datasync-postgres-source"
    _documentation_url: ClassVar[HttpUrl | None] = HttpUrl(
        "https://www.postgresql.org/docs/current/logical-replication-security.html"
    )


class PostgresTarget(_Connection, Block):
    """A PostgreSQL database to write to. The role owns the tables that it fills.

    Example:
        Load a stored target and look at it:
        ```python
        from prefect_datasync import PostgresTarget

        target = PostgresTarget.load("BLOCK_NAME")
        print(target.server().address)
        ```
    """

    model_config = ConfigDict(extra="forbid")

    _block_type_name: ClassVar[str | None] = "Datasync Postgres Target"
    _block_type_slug: ClassVar[str | None] = "datasync-postgres-target"
    _documentation_url: ClassVar[HttpUrl | None] = HttpUrl(
        "https://www.postgresql.org/docs/current/libpq-connect.html"
    )

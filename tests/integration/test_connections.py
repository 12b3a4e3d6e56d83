"""Ways to reach a server: TCP, a Unix socket, TLS; and what a refusal says."""

from __future__ import annotations

import datetime
import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID
from plain_connections import plain

from prefect_datasync.deployments.private_servers import postgres_servers
from prefect_datasync.engine.errors import ConnectFailed, TransientError
from prefect_datasync.engine.postgres.instance import open_instance
from prefect_datasync.engine.postgres.session import PINNED, Server, connect
from prefect_datasync.engine.spec import Mode, SyncSpec


def system_bin_with_tls() -> Path | None:
    """A PostgreSQL that was built with OpenSSL; the embedded one was not."""
    for place in postgres_servers.system_bin_dirs():
        if (place / "initdb").exists() and b"libssl" in (place / "postgres").read_bytes():
            return place
    return None


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> tuple[bytes, bytes]:
    """A self-signed certificate for 127.0.0.1 and its key, as PEM."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "localhost")])
    now = datetime.datetime.now(datetime.UTC)
    made = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(1)
        .not_valid_before(now - datetime.timedelta(days=1))
        .not_valid_after(now + datetime.timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([x509.DNSName("localhost")]), critical=False)
        .sign(key, hashes.SHA256())
    )
    return (
        made.public_bytes(serialization.Encoding.PEM),
        key.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.NoEncryption(),
        ),
    )


@pytest.fixture(scope="module")
def tls_server(
    certificate: tuple[bytes, bytes], tmp_path_factory: pytest.TempPathFactory
) -> Iterator[tuple[Server, str]]:
    """A server that takes TLS connections only, and the file of its certificate."""
    place = system_bin_with_tls()
    if place is None:
        pytest.skip("no PostgreSQL with TLS is installed; the embedded one has none")
    before = os.environ.get("DATASYNC_PG_BIN")
    os.environ["DATASYNC_PG_BIN"] = str(place)
    try:
        with postgres_servers.private_folder() as folder:
            files = [folder / "server.crt", folder / "server.key"]
            for file, content in zip(files, certificate, strict=True):
                file.write_bytes(content)
                if identity := postgres_servers.as_nobody():
                    os.chown(file, identity["user"], identity["group"])
                file.chmod(0o600)
            root = tmp_path_factory.mktemp("tls") / "root.crt"
            root.write_bytes(certificate[0])
            settings = {"ssl": "on", "ssl_cert_file": files[0], "ssl_key_file": files[1]}
            with postgres_servers.postgres(folder, "tls", **settings) as started:
                yield (
                    Server("localhost", started.port, "postgres", "postgres", started.password),
                    str(root),
                )
    finally:
        os.environ.pop("DATASYNC_PG_BIN")
        if before is not None:
            os.environ["DATASYNC_PG_BIN"] = before


def with_(server: Server, **changes: str) -> Server:
    fields = {name: getattr(server, name) for name in Server.__slots__} | changes
    return Server(**fields)


def test_a_verified_tls_connection_is_encrypted_and_a_wrong_root_is_refused(tls_server, tmp_path):
    server, root = tls_server
    with connect(with_(server, sslmode="verify-full", sslrootcert=root), "test") as connection:
        assert connection.pgconn.ssl_in_use
    with pytest.raises(ConnectFailed):
        connect(with_(server, sslmode="verify-full", sslrootcert=str(tmp_path / "none")), "test")


def test_a_server_on_this_machine_is_reached_without_tls_unless_it_is_asked_for(tls_server):
    server, _ = tls_server
    with connect(server, "test") as connection:
        assert not connection.pgconn.ssl_in_use
    with connect(with_(server, sslmode="require"), "test") as connection:
        assert connection.pgconn.ssl_in_use


def test_tls_refused_by_the_server_is_an_error_that_says_so(source):
    with pytest.raises(ConnectFailed, match="SSL"):
        connect(with_(source, sslmode="require"), "test")


def test_a_copy_over_tls_moves_every_row(tls_server, target):
    server, root = tls_server
    source = with_(server, sslmode="verify-full", sslrootcert=root)
    with connect(source, "test") as connection:
        connection.execute(
            "create table public.t as select g as v from generate_series(1, 50000) g"
        )
    spec = SyncSpec(mode=Mode.FULL, tables=("public.t",))
    with open_instance(
        "tls-00000000", "one", source, target, spec, stop=lambda: None, say=print
    ) as instance:
        copied = [instance.copy(unit) for unit in instance.prepare()]
        instance.finish_copy()
    assert [c.rows for c in copied] == [50000]
    with connect(target, "test") as connection:
        assert connection.execute("select sum(v) from public.t").fetchone() == (1250025000,)


def test_a_unix_socket_is_reached_by_its_folder(source):
    with connect(source, "test") as connection:
        folder = connection.execute("show unix_socket_directories").fetchone()
    assert folder is not None
    with connect(with_(source, host=folder[0]), "test") as connection:
        assert connection.execute("select inet_server_addr()").fetchone() == (None,)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"password": "wr0ng-secret"}, "password authentication failed"),
        ({"dbname": "no_such_database"}, "does not exist"),
        ({"user": "nobody_at_all", "password": "wr0ng-secret"}, "password authentication failed"),
    ],
)
def test_a_refusal_names_the_server_and_the_reason_but_no_secret(source, change, said):
    with pytest.raises(ConnectFailed, match=said) as caught:
        connect(with_(source, **change), "test")
    assert "wr0ng-secret" not in str(caught.value)
    assert source.password not in str(caught.value)
    assert str(caught.value).startswith("CONNECT_FAILED: cannot connect to ")
    assert ". Nothing was changed. Do: " in str(caught.value)


def test_a_server_that_is_not_there_is_a_fault_that_may_heal():
    with pytest.raises(TransientError, match="UNREACHABLE"):
        connect(Server("127.0.0.1", 1, "x", "x"), "test")


def test_a_database_with_hostile_settings_still_gives_pinned_text(source):
    with plain(source) as administrator:
        for setting in (
            "datestyle = 'SQL, DMY'",
            "intervalstyle = 'sql_standard'",
            "timezone = 'America/New_York'",
            "bytea_output = 'escape'",
            "extra_float_digits = 0",
            "statement_timeout = '1s'",
            "idle_in_transaction_session_timeout = '1s'",
            "default_transaction_read_only = on",
        ):
            administrator.execute(f'alter database "{source.dbname}" set {setting}'.encode())
    for replication in (False, True):
        with connect(source, "test", replication=replication) as connection:
            for name, value in PINNED.items():
                shown = connection.execute(f"show {name}".encode()).fetchone()
                assert shown is not None
                wanted = value.replace("\\", "").replace("ISO,YMD", "ISO, YMD")
                assert shown[0] == {"timezone": "UTC"}.get(name, wanted), name

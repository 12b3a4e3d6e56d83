"""A connection on the command line: a DSN gives all its fields, and a password comes in no argument."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from prefect_datasync.deployments.cli import connections as cli_connections

ADD = ["source", "add", "shop", "--no-test", "--host", "h", "--dbname", "d", "--user", "u"]


@pytest.mark.parametrize(
    "dsn", ["postgresql://u:hush@h/d", "postgresql://u@h/d?password=hush"], ids=["user", "query"]
)
def test_a_password_in_a_dsn_is_refused_and_not_repeated(
    dsn: str, refused: Callable[..., str]
) -> None:
    said = refused("source", "add", "shop", "--dsn", dsn)
    assert said.startswith("PASSWORD_IN_ARGUMENT: ")
    assert "history" in said
    assert "hush" not in said


def test_there_is_no_option_for_a_password(refused: Callable[..., str]) -> None:
    assert refused(*ADD, "--password", "hush").startswith("USAGE: ")


def test_without_a_terminal_a_password_is_not_asked_for(
    refused: Callable[..., str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sys.stdin.isatty", lambda: False, raising=False)
    assert refused(*ADD).startswith("PASSWORD_MISSING: ")


def test_a_variable_that_is_not_set_is_no_empty_password(refused: Callable[..., str]) -> None:
    assert "DATASYNC_NO_SUCH" in refused(*ADD, "--password-env", "DATASYNC_NO_SUCH")


def test_the_password_is_the_first_line_of_its_file(tmp_path: Path) -> None:
    file = tmp_path / "password"
    file.write_text("hush hush\nsecond\n")
    assert cli_connections._password(None, file) == "hush hush"


def test_a_dsn_gives_all_fields_decoded() -> None:
    assert cli_connections._from_dsn(
        "postgresql://u%40x@db.example:6432/my%20db?sslmode=require"
    ) == {
        "host": "db.example",
        "port": 6432,
        "dbname": "my db",
        "user": "u@x",
        "sslmode": "require",
    }


def test_a_dsn_may_list_several_hosts() -> None:
    fields = cli_connections._from_dsn("postgresql://u@db1:5432,db2:5433/shop")
    assert fields == {"host": "db1:5432,db2:5433", "dbname": "shop", "user": "u"}


def test_a_provider_that_nobody_knows_is_refused(refused: Callable[..., str]) -> None:
    assert "cloud-sql" in refused("check", "orders", "--provider", "cloudy")


@pytest.mark.parametrize(
    "dsn", ["mysql://u@h/d", "postgresql://u@h/d?options=-c", "postgresql://u@h:99999/d"]
)
def test_a_dsn_with_more_than_we_use_is_refused(dsn: str, refused: Callable[..., str]) -> None:
    assert refused("target", "add", "x", "--dsn", dsn).startswith("USAGE: ")


def test_what_a_connection_lacks_is_named(refused: Callable[..., str]) -> None:
    assert "--dbname, --user is missing" in refused("source", "add", "shop", "--host", "h")

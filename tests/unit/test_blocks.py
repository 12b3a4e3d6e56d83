"""The blocks meet Prefect's own standards, refuse misspelt fields, and keep secrets to themselves."""

from datetime import UTC, datetime

import pytest
from prefect.blocks.core import Block
from prefect.testing.standard_test_suites import BlockStandardTestSuite
from prefect.utilities.dispatch import get_registry_for_type
from pydantic import ValidationError

from prefect_datasync.blocks import PostgresSource, PostgresTarget, SyncCheckpoint
from prefect_datasync.engine.postgres.job_rows.state import Checkpoint, TableProgress
from prefect_datasync.engine.postgres.session import Server
from prefect_datasync.flows.sync import data_sync

OURS = [PostgresSource, PostgresTarget, SyncCheckpoint]
FIELDS = {"host": "db.example", "dbname": "shop", "user": "sync", "password": "s3cr3t-word"}


@pytest.mark.parametrize("block", OURS)
class TestPrefectStandards(BlockStandardTestSuite):
    @pytest.fixture
    def block(self, request: pytest.FixtureRequest) -> type[Block]:
        return request.param

    #: Prefect's test opens the logo's URL; ours have no logo, so that the UI asks nobody outside.
    test_has_a_valid_image = None


def test_exactly_our_blocks_are_registered_under_our_prefix():
    registry = get_registry_for_type(Block)
    assert registry is not None
    ours = {name for name in registry if name.startswith("datasync")}
    assert ours == {block._block_type_slug for block in OURS}


@pytest.mark.parametrize("block", [PostgresSource, PostgresTarget])
def test_a_connection_gives_the_engine_every_field(block):
    more = {
        "port": 6543,
        "sslmode": "verify-full",
        "sslrootcert": "ca.pem",
        "sslcert": "client.pem",
        "sslkey": "client.key",
    }
    assert block(**FIELDS, **more).server() == Server(
        "db.example",
        6543,
        "shop",
        "sync",
        "s3cr3t-word",
        "verify-full",
        "ca.pem",
        "client.pem",
        "client.key",
    )


@pytest.mark.parametrize("block", [PostgresSource, PostgresTarget])
def test_a_misspelt_field_is_refused_without_showing_the_password(block):
    with pytest.raises(ValidationError) as refused:
        block(**FIELDS, prot=5432)
    assert "prot" in str(refused.value)
    assert "s3cr3t-word" not in str(refused.value)


@pytest.mark.parametrize("block", [PostgresSource, PostgresTarget])
def test_a_password_is_in_no_text_of_the_block(block):
    made = block(**FIELDS)
    texts = (repr(made), str(made), made.model_dump_json(), repr(made.server()))
    assert all("s3cr3t-word" not in text for text in texts)


@pytest.mark.parametrize("block", [PostgresSource, PostgresTarget])
def test_prefect_is_told_which_field_is_the_secret(block):
    assert block.model_json_schema()["secret_fields"] == ["password"]


def test_a_reference_to_a_block_passes_the_schema_of_the_flows_parameters():
    schema = data_sync.parameters.model_dump()
    for name in ("PostgresSource", "PostgresTarget"):
        assert "additionalProperties" not in schema["definitions"][name]


def test_a_checkpoint_block_shows_what_the_target_says():
    now = datetime(2026, 1, 2, tzinfo=UTC)
    tables = (
        TableProgress("public", "a", "copied", 10, 100),
        TableProgress("public", "b", "pending", 3, 30),
    )
    checkpoint = Checkpoint(
        key="orders-3f2a91c0",
        instance="run",
        epoch=2,
        phase="copying",
        position="0/16B3748",
        slot="datasync_orders_3f2a91c0_1",
        records=13,
        bytes=130,
        tables=tables,
        started=now,
        updated=now,
    )
    block = SyncCheckpoint.of("orders", checkpoint)
    assert (block.phase, block.position, block.records) == ("copying", "0/16B3748", 13)
    assert (block.tables_copied, block.tables_total) == (1, 2)
    assert block.tables[1] == {"table": "public.b", "phase": "pending", "rows": 3, "bytes": 30}


def test_a_checkpoint_of_very_many_tables_stays_small():
    now = datetime(2026, 1, 2, tzinfo=UTC)
    many = tuple(TableProgress("public", f"t{n}", "copied", 1, 1) for n in range(5000))
    checkpoint = Checkpoint("k", "i", 1, "streaming", None, None, 0, 0, many, now, now)
    block = SyncCheckpoint.of("orders", checkpoint)
    assert len(block.tables) == 500
    assert block.tables_total == 5000

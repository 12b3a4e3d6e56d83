"""What is told of copies beside the stream: on the page, on the command line, table by table."""

from prefect_datasync.deployments.cli.output import again_line
from prefect_datasync.deployments.tables import Copying, copies_in
from prefect_datasync.engine.metrics import Kpis
from prefect_datasync.engine.sample import Sample, TableCopy
from prefect_datasync.tasks.board import board

KPIS = Kpis(1200, 30, 1234567, 35_200_000, 12.5, 4000.0, "healthy")
ON_ITS_WAY = TableCopy("public.a", 400, 500_000, 1_000_000, copied=False)
COPIED = TableCopy("public.b", 900, 2_000_000, 2_000_000, copied=True)


def sample(*again: TableCopy, lag: int | None = None) -> Sample:
    return Sample(1.0, KPIS, again=again, again_lag_bytes=lag)


def test_the_page_shows_each_copy_and_what_it_has_to_follow():
    lines = board("orders", sample(ON_ITS_WAY, COPIED, lag=3_000_000), ()).splitlines()
    assert "### Copied again beside the stream, 3.0 MB of WAL to follow" in lines
    assert "| `public.a` | 50 % | 400 | 500.0 kB |" in lines
    assert "| `public.b` | copied | 900 | 2.0 MB |" in lines
    assert "Copied again" not in board("orders", sample(), ())


def test_a_line_tells_of_all_copies():
    facts = sample(ON_ITS_WAY, COPIED, lag=3_000_000).facts()
    assert again_line(facts) == "public.a 50 %, public.b 100 %; 3.0 MB of WAL to follow"
    assert again_line(sample(ON_ITS_WAY).facts()) == "public.a 50 %"
    assert again_line(sample().facts()) is None


def test_each_table_has_its_own_copy_and_follows_nothing_before_it_is_copied():
    assert copies_in(sample(ON_ITS_WAY, COPIED, lag=7).facts()) == {
        "public.a": Copying(50.0, 400, 500_000, 1_000_000, None),
        "public.b": Copying(100.0, 900, 2_000_000, 2_000_000, 7),
    }
    assert copies_in({}) == {}

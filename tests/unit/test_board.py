"""The page of an instance: what people see, and what programs find in it."""

from uuid import uuid4

from hypothesis import given
from hypothesis import strategies as st
from prefect.client.schemas.objects import Artifact

from prefect_datasync.engine.metrics import VERDICTS, Kpis
from prefect_datasync.engine.sample import Sample, TableCopy
from prefect_datasync.engine.snapshot import CopyProgress
from prefect_datasync.engine.trend import Minute
from prefect_datasync.tasks.board import TABLES, board, facts_in

KPIS = Kpis(1200, 30, 1234567, 35_200_000, 12.5, 4000.0, "healthy")
MINUTE = Minute(1_800_000_000, 600, 6000, 10.0, 5, 7, 0, 0, "healthy")


def page(sample: Sample, hour: tuple[Minute | None, ...] = ()) -> str:
    return board("orders", sample, hour)


def artifact(text: str | None) -> Artifact:
    return Artifact(id=uuid4(), data=text)


def test_the_six_indicators_stand_there_with_their_units():
    text = page(Sample(1.0, KPIS, position="0/1A", lag_bytes=2000, retained_bytes=16_000_000))
    for line in (
        "| Idle Time | 1,200 ms |",
        "| Emit Event Time | 30 ms |",
        "| Instance Records | 1,234,567 |",
        "| Instance Bytes | 35.2 MB |",
        "| Instance RPS | 12 records/s |",
        "| Instance BPS | 4.0 kB/s |",
        "| Position | 0/1A |",
        "| WAL the source keeps | 16.0 MB |",
    ):
        assert line in text.splitlines()
    assert text.startswith("## orders: healthy\n")


@given(
    st.sampled_from(VERDICTS),
    st.none() | st.integers(0, 10**9),
    st.none() | st.text(max_size=20),
)
def test_programs_find_the_facts_again(verdict: str, lag: int | None, position: str | None):
    told = Sample(1.5, Kpis(None, None, 0, 0, 0.0, 0.0, verdict), position=position, lag_bytes=lag)
    assert facts_in(artifact(page(told, (None, MINUTE)))) == told.facts()


def test_a_page_that_is_not_ours_has_no_facts():
    for text in (None, "", "# hello", "<!-- datasync {broken -->", "<!-- datasync [1] -->"):
        assert facts_in(artifact(text)) == {}


def test_tables_on_their_way_come_first_and_many_are_counted():
    tables = tuple(TableCopy(f"public.t{n}", 0, 0, n, copied=False) for n in range(TABLES + 3))
    moving = TableCopy("public.big|`x`", 10, 50, 100, copied=False)
    done = TableCopy("public.done", 10, 50, 50, copied=True)
    copy = CopyProgress(10, 50, 100, 0.5, 12.0, 3.0)
    text = page(Sample(1.0, KPIS, copy=copy, tables=(done, *tables, moving)))
    lines = [line for line in text.splitlines() if line.startswith("| `")]
    assert lines[0] == "| `public.big¦'x'` | 50 % | 10 | 50 B |"
    assert "and 5 more tables" in text
    assert "### Copy: 50 %, 10 rows, 50 B of 100 B, about 12 s left" in text


def test_the_last_hour_is_drawn_only_when_something_is_known_of_it():
    assert "last hour" not in page(Sample(1.0, KPIS), (None, None))
    text = page(Sample(1.0, KPIS), (None, MINUTE))
    assert text.count("](data:image/svg+xml;base64,") == 2

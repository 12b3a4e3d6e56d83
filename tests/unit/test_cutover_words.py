"""What a cut-over says of its comparison counts no table that was not compared."""

from dataclasses import replace

from prefect_datasync.deployments.cli.cutover import compared_words
from prefect_datasync.deployments.cutover import CutOver

DONE = CutOver("shop", "0/1A", 2, 1071, (), (), (), ())


def test_tables_that_were_not_compared_are_told_apart_by_name():
    assert compared_words(DONE) == "Compared 2 tables, 1,071 rows: equal."
    left = ("public.logs: it has no key", "public.old: updates are not applied")
    assert compared_words(replace(DONE, not_compared=left)) == (
        "Compared 2 tables, 1,071 rows: equal; 2 not compared: public.logs: it has no key;"
        " public.old: updates are not applied."
    )
    assert compared_words(replace(DONE, tables=None, rows=None)) == "Nothing was compared."
    assert compared_words(replace(DONE, tables=0, rows=0, not_compared=left)) == (
        "Nothing was compared; 2 not compared: public.logs: it has no key;"
        " public.old: updates are not applied."
    )

"""Real databases: copied, changed under load, followed, and equal row for row."""

from __future__ import annotations

import time

import pytest
from attempts import Attempt, execute, load, running

from prefect_datasync.engine.spec import Mode, SyncSpec

CHANGES = {
    "pagila": [
        "update payment set amount = amount + 1 where customer_id < 50",
        "delete from payment where customer_id = 60",
        "update film set title = title || ' II', rating = 'PG-13', special_features = '{Trailers}'",
        "update rental set return_date = now() where rental_id < 1000",
        # rows move from one partition to the next, and one partition is truncated
        "update payment set payment_date = payment_date + interval '31 days'"
        " where payment_date between '2022-03-01' and '2022-03-05'",
        "truncate payment_p2022_05",
        "insert into customer (store_id, first_name, last_name, address_id)"
        " select 1, 'new', 'name ' || g, 1 from generate_series(1, 500) g",
        "delete from film_actor where film_id < 20",
        "update film_actor set film_id = film_id + 1000000 where false",
    ],
    "chinook": [
        "update track set unit_price = unit_price * 2",
        "update customer set company = null, email = lower(email)",
        "delete from invoice_line where invoice_id < 50",
        "insert into artist (artist_id, name) select 1000 + g, repeat('é', g)"
        " from generate_series(1, 100) g",
        "begin; delete from playlist_track; savepoint s; delete from invoice_line; rollback to s;"
        " commit",
    ],
}
LOAD = {
    "pagila": "update rental set last_update = now(), return_date = now() where rental_id % 997 = {n} % 997;"
    " insert into payment (customer_id, staff_id, rental_id, amount, payment_date)"
    " select customer_id, staff_id, rental_id, 1.5, '2022-04-02' from rental"
    " where rental_id = 1 + {n} % 1000;"
    " update payment set amount = amount + 0.01 where customer_id = 1 + {n} % 599",
    "chinook": "update invoice set total = total + 1 where invoice_id % 13 = {n} % 13;"
    " update customer set city = 'c{n}' where customer_id = 1 + {n} % 50",
}


@pytest.fixture(params=["pagila", pytest.param("chinook", marks=pytest.mark.slow)])
def dataset(request, source, load_dataset):
    load_dataset(source, request.param)
    return request.param


def test_a_full_copy_of_a_real_database_is_equal_and_ends(dataset, source, target):
    attempt = Attempt(source, target, SyncSpec(mode=Mode.FULL), "one")
    attempt.run()
    report = attempt.verify()
    assert [t for t in report.tables if not t.equal] == []
    assert report.rows > 10_000
    assert attempt.kpis is not None
    assert attempt.kpis.instance_records == report.rows


def test_a_real_database_is_followed_under_load_over_a_pause(dataset, source, target):
    changes = CHANGES[dataset]
    with load(source, lambda n: LOAD[dataset].format(n=n)) as committed:
        with running(source, target, SyncSpec()) as attempt:
            assert attempt.verify().equal
            execute(source, *changes[: len(changes) // 2])
            live = attempt.verify()
            assert [t for t in live.tables if not t.equal] == []
            assert live.live
        execute(source, *changes[len(changes) // 2 :])
        before = committed()
        with running(source, target, SyncSpec()) as attempt:
            time.sleep(1)
            live = attempt.verify()
            assert [t for t in live.tables if not t.equal] == []
        assert committed() > before
    with running(source, target, SyncSpec()) as attempt:
        assert attempt.verify().equal

"""Every problem has a cure on every provider, which names what it is given and nothing else."""

from __future__ import annotations

import pytest

from prefect_datasync.engine.postgres.check.providers import (
    CURES,
    Facts,
    Problem,
    Provider,
    cure,
    detect,
)


@pytest.mark.parametrize("provider", Provider)
@pytest.mark.parametrize("problem", Problem)
def test_every_problem_has_a_cure_on_every_provider(problem, provider):
    facts = {"role": '"a {b}"', "setting": "max_wal_senders", "value": 12}
    found = cure(provider, problem, **facts)
    said = " ".join([found.do, *found.sql])
    assert found.do
    assert "{" not in said.replace('"a {b}"', "")
    if provider not in CURES[problem]:
        assert found == cure(Provider.SELF_MANAGED, problem, **facts)


@pytest.mark.parametrize("problem", [p for p in Problem if "setting" in p.name.lower()])
def test_no_managed_server_is_told_to_alter_the_system(problem):
    for provider in set(Provider) - {Provider.SELF_MANAGED, Provider.NEON}:
        assert "ALTER SYSTEM" not in str(cure(provider, problem, setting="s", value=1))


def test_a_superuser_is_on_a_server_of_its_own_whatever_roles_a_dump_brought():
    dump = frozenset({"rds_superuser"})
    assert detect(Facts(True, dump, frozenset(), False)) is Provider.SELF_MANAGED
    assert detect(Facts(False, dump, frozenset(), False)) is Provider.RDS
    assert detect(Facts(False, frozenset(), frozenset(), True)) is Provider.SELF_MANAGED

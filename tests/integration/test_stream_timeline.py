"""A stream is of the timeline for which its position was checked: another server has another history."""

from __future__ import annotations

import contextlib

import pytest
from attempts import execute

from prefect_datasync.engine.errors import TransientError
from prefect_datasync.engine.postgres import slot
from prefect_datasync.engine.postgres.changes.pull import Pull
from prefect_datasync.engine.postgres.changes.walsender import Walsender
from prefect_datasync.engine.postgres.session import connect

NAME, APPLICATION = "datasync_timeline_1", "timeline"


def test_a_source_that_became_another_after_the_check_is_not_read(source):
    execute(source, "create table t (id int primary key)", "create publication p for table t")
    slot.create_slot(
        source,
        APPLICATION,
        NAME,
        temporary=False,
        failover=True,
        timeout_s=20,
        stop=lambda: None,
        say=print,
    ).close()
    now = slot.identify(source, APPLICATION)
    openers = (
        lambda timeline: Pull(source, APPLICATION, NAME, ("p",), False, None, timeline),
        lambda timeline: Walsender(
            source, APPLICATION, NAME, ("p",), now.flushed, False, None, timeline
        ),
    )
    for opener in openers:
        with pytest.raises(TransientError, match="from timeline 7 to 1"):
            opener(7)
        with contextlib.closing(opener(now.timeline)):
            pass
    with connect(source, APPLICATION) as look:
        assert slot.can_fail_over(look)
        assert not slot.waits_for_standbys(look, NAME)

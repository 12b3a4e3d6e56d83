"""Under which heading `datasync --help` shows each command."""

from __future__ import annotations

from cyclopts import App, Group

#: In the order in which help shows them; what stands nowhere is shown under `Commands`.
GROUPS = {
    "Jobs": ("job", "check", "plan", "start", "pause", "resume", "restart", "retry", "delete"),
    "Tables": ("table", "quarantine", "verify", "sequences", "cutover"),
    "Servers": ("source", "target", "orphans", "ddl-trigger"),
    "Watching": ("status", "watch", "metrics", "history", "explain", "alerts", "exporter"),
    "Maintenance": ("worker", "maintenance"),
}


def put_into_groups(app: App) -> None:
    """Give each command its heading."""
    for title, names in GROUPS.items():
        group = Group.create_ordered(title)
        for name in names:
            app[name].group = (group,)

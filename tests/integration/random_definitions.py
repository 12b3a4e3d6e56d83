"""An application and its migrations, at random: rows, columns and tables that come, change and go."""

from __future__ import annotations

import itertools
from dataclasses import dataclass, field
from random import Random

TYPES = ("int", "bigint", "text", "varchar(10)", "numeric", "timestamptz", "bytea", "int[]")
WIDER = {"int": "bigint", "varchar(10)": "varchar(40)", "bigint": "numeric", "numeric": "text"}
VALUES = {
    "int": "(random() * 1000)::int",
    "bigint": "(random() * 1e12)::bigint",
    "text": "md5(random()::text)",
    "varchar(10)": "left(md5(random()::text), 10)",
    "varchar(40)": "md5(random()::text)",
    "numeric": "round(random()::numeric, 6)",
    "timestamptz": "clock_timestamp()",
    "bytea": "decode(md5(random()::text), 'hex')",
    "int[]": "array[1, (random() * 9)::int, null]",
}
CONSTANTS = {"int": "7", "bigint": "8", "text": "'new'", "varchar(10)": "'v'", "numeric": "0.5"}


@dataclass
class Known:
    """A table as the application knows it; its key is `id`."""

    columns: dict[str, str] = field(default_factory=dict)  #: name: type, without the key


class Application:
    """What it does next, in transactions of one to four steps."""

    def __init__(self, seed: int) -> None:
        self._random = Random(seed)
        self._numbers = itertools.count(1)
        self.tables: dict[str, Known] = {}

    def begin(self, tables: int = 4) -> list[str]:
        """What it starts with."""
        return [statement for _ in range(tables) for statement in self._create()]

    def transaction(self) -> str:
        """Statements that belong together."""
        steps = [s for _ in range(self._random.randint(1, 4)) for s in self._step()]
        return "begin; " + "; ".join(steps) + "; commit"

    def _step(self) -> list[str]:
        if not self.tables:
            return self._create()
        rows = (self._insert, self._insert, self._update, self._update, self._delete)
        definitions = (
            self._add_column,
            self._drop_column,
            self._rename_column,
            self._change_type,
            self._rename,
            self._swap,
            self._create,
            self._drop,
            self._make_anew,
            self._truncate,
        )
        pick = self._random.choice
        return pick(rows)() if self._random.random() < 0.65 else pick(definitions)()

    def _some(self) -> str:
        return self._random.choice(sorted(self.tables))

    def _column(self, name: str) -> str | None:
        columns = sorted(self.tables[name].columns)
        return self._random.choice(columns) if columns else None

    def _create(self, name: str | None = None) -> list[str]:
        name = name or f"t{next(self._numbers)}"
        made = Known({f"c{next(self._numbers)}": self._random.choice(TYPES) for _ in range(3)})
        columns = "".join(f", {c} {kind}" for c, kind in made.columns.items())
        self.tables[name] = made
        return [f"create table {name} (id int primary key{columns})", *self._insert(name)]

    def _insert(self, name: str | None = None) -> list[str]:
        name = name or self._some()
        columns = self.tables[name].columns
        values = "".join(f", {VALUES[kind]}" for kind in columns.values())
        names = ", ".join(["id", *columns])
        count = self._random.choice((1, 3, 200))
        return [
            f"insert into {name} ({names}) select coalesce((select max(id) from {name}), 0) + g{values}"
            f" from generate_series(1, {count}) g"
        ]

    def _update(self) -> list[str]:
        name = self._some()
        where = f"id % {self._random.choice((2, 7, 50))} = 1"
        if (column := self._column(name)) is None or self._random.random() < 0.15:
            return [
                f"update {name} set id = id + (select max(id) from {name})"
                f" where id in (select id from {name} order by id limit 3)"
            ]
        kind = self.tables[name].columns[column]
        return [f"update {name} set {column} = {VALUES[kind]} where {where}"]

    def _delete(self) -> list[str]:
        return [f"delete from {self._some()} where id % {self._random.choice((3, 10))} = 2"]

    def _add_column(self) -> list[str]:
        name, column = self._some(), f"c{next(self._numbers)}"
        kind = self._random.choice(TYPES)
        default = self._random.choice(("", CONSTANTS.get(kind, ""), VALUES[kind]))
        self.tables[name].columns[column] = kind
        return [
            f"alter table {name} add {column} {kind}" + (f" default {default}" if default else "")
        ]

    def _drop_column(self) -> list[str]:
        name = self._some()
        if (column := self._column(name)) is None:
            return self._add_column()
        del self.tables[name].columns[column]
        return [f"alter table {name} drop {column}"]

    def _rename_column(self) -> list[str]:
        name = self._some()
        if (column := self._column(name)) is None:
            return self._add_column()
        other = f"c{next(self._numbers)}"
        self.tables[name].columns[other] = self.tables[name].columns.pop(column)
        return [f"alter table {name} rename {column} to {other}"]

    def _change_type(self) -> list[str]:
        name = self._some()
        column = self._column(name)
        if column is None or (kind := WIDER.get(self.tables[name].columns[column])) is None:
            return self._add_column()
        self.tables[name].columns[column] = kind
        return [
            f"alter table {name} alter {column} drop default",
            f"alter table {name} alter {column} type {kind} using {column}::{kind}",
        ]

    def _rename(self) -> list[str]:
        name, other = self._some(), f"t{next(self._numbers)}"
        self.tables[other] = self.tables.pop(name)
        return [f"alter table {name} rename to {other}"]

    def _swap(self) -> list[str]:
        if len(self.tables) < 2:
            return self._create()
        one, two = self._random.sample(sorted(self.tables), 2)
        self.tables[one], self.tables[two] = self.tables[two], self.tables[one]
        return [
            f"alter table {one} rename to between_two",
            f"alter table {two} rename to {one}",
            f"alter table between_two rename to {two}",
        ]

    def _drop(self) -> list[str]:
        name = self._some()
        del self.tables[name]
        return [f"drop table {name}"]

    def _make_anew(self) -> list[str]:
        name = self._some()
        return [f"drop table {name}", *self._create(name)]

    def _truncate(self) -> list[str]:
        return [f"truncate {self._some()}"]

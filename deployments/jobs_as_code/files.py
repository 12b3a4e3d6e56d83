"""Jobs as a file: YAML or JSON, a list of jobs or one job. Connections are named in it, so it holds no secret.

    - name: orders
      source: shop              # blocks, by name
      target: shop-copy
      mode: full+incremental    # and every other setting of a job; what is left out has its default
      tables: [public.*]

Reading gives jobs or one error that names every fault with file and line.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any

import yaml
from pydantic import Field, StringConstraints, ValidationError

from prefect_datasync.engine.errors import ConfigError
from prefect_datasync.engine.spec import JOB_NAME, SyncSpec

Where = tuple[str | int, ...]  #: the way from an entry to a value, e.g. `("tables", 1)`
ALWAYS = ("mode", "tables")  #: written also where they have the default: they tell what a job is
OF_CONNECTIONS = frozenset(
    ("host", "port", "dbname", "user", "password", "sslmode", "dsn", "url", "connection")
)


class JobSettings(SyncSpec):
    """One job of a file: its name, the names of two blocks, and the spec's fields beside them."""

    name: Annotated[str, StringConstraints(pattern=JOB_NAME)] = Field(description="Name.")
    source: Annotated[str, StringConstraints(min_length=1)] = Field(description="Source block.")
    target: Annotated[str, StringConstraints(min_length=1)] = Field(description="Target block.")

    @property
    def spec(self) -> SyncSpec:
        """The settings without the names."""
        return SyncSpec.model_validate(self.model_dump(include=set(SyncSpec.model_fields)))


@dataclass(frozen=True, slots=True)
class Entry:
    """One job as it stands in a file, not looked at yet.

    Attributes:
        lines: of the values; `()` is the entry itself.
    """

    values: Mapping[str, Any] = field(default_factory=dict)
    lines: Mapping[Where, int] = field(default_factory=dict)

    def settings(self, **given: Any) -> JobSettings:
        """The job, with *given* values in place of the file's.

        Raises:
            ValidationError: see `faults_of`.
        """
        return JobSettings.model_validate({**self.values, **given})

    def faults_of(self, exc: ValidationError) -> list[tuple[int | None, str]]:
        """What is wrong, with the lines."""
        return [(self._line(e["loc"]), _fault(e["type"], e["loc"], e["msg"])) for e in exc.errors()]

    def _line(self, where: Where) -> int | None:
        while where and where not in self.lines:
            where = where[:-1]
        return self.lines.get(where)


def read_jobs(file: Path) -> list[JobSettings]:
    """The jobs of a file.

    Raises:
        ConfigError: JOB_FILE, with every fault.
    """
    entries = read_entries(file)
    jobs: list[JobSettings] = []
    faults: list[tuple[int | None, str]] = []
    for entry in entries:
        try:
            jobs.append(entry.settings())
        except ValidationError as exc:
            faults += entry.faults_of(exc)
    first: dict[str, int | None] = {}
    for entry in entries:
        name, line = str(entry.values.get("name")), entry.lines.get(())
        if "name" in entry.values and name in first:
            faults.append((line, f"the job {name} is in line {first[name]} already"))
        first.setdefault(name, line)
    if not entries:
        faults.append((None, "it holds no job"))
    if faults:
        raise fault_of(file, faults)
    return jobs


def read_entries(file: Path) -> list[Entry]:
    """What the file holds, of the form that it must have.

    Raises:
        ConfigError: JOB_FILE.
    """
    try:
        text = file.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as exc:
        raise fault_of(file, [(None, f"it cannot be read ({type(exc).__name__})")]) from exc
    try:
        loader = _Loader(text)
        root = loader.get_single_node()
        twice = list(_twice(root)) if root else []
        value = loader.construct_document(root) if root else []
    except yaml.YAMLError as exc:
        mark = getattr(exc, "problem_mark", None)
        said = getattr(exc, "problem", None) or "it cannot be parsed"
        line = mark.line + 1 if mark else None
        raise fault_of(file, [(line, f"this is not YAML: {said}")]) from exc
    except RecursionError as exc:
        raise fault_of(file, [(None, "a part of it holds itself")]) from exc
    if twice:
        raise fault_of(file, [(line, f"`{name}` is there twice") for line, name in twice])
    items = value if isinstance(value, list) else [value]
    nodes = root.value if isinstance(value, list) and root else [root] if root else []
    faults = [
        (node.start_mark.line + 1, "this does not hold names with values")
        for item, node in zip(items, nodes, strict=True)
        if not isinstance(item, dict)
    ]
    if faults:
        raise fault_of(file, list(faults))
    return [
        Entry({_field(name): each for name, each in item.items()}, dict(_lines(node, ())))
        for item, node in zip(items, nodes, strict=True)
    ]


def fault_of(file: Path, faults: list[tuple[int | None, str]]) -> ConfigError:
    """The error for a file, naming all its faults."""
    ordered = sorted(faults, key=lambda fault: fault[0] or 0)
    told = "; ".join(f"line {line}: {what}" if line else what for line, what in ordered)
    return ConfigError(f"{file}: {told}", do="correct the file", code="JOB_FILE")


def written(jobs: list[JobSettings]) -> str:
    """The file that holds these jobs; fields with their default value are left out."""
    values = [brief(job) for job in jobs]
    text = yaml.safe_dump(values, sort_keys=False, allow_unicode=True, width=100)
    if yaml.safe_load(text) != values:  # PyYAML writes Unicode's rarer line ends as they are
        text = yaml.safe_dump(values, sort_keys=False, width=100)
    return text


def settings_of(name: str, source: str, target: str, spec: SyncSpec) -> JobSettings:
    """A job that exists, as a file would have it."""
    return JobSettings(name=name, source=source, target=target, **spec.model_dump())


def brief(job: JobSettings) -> dict[str, Any]:
    """The fields of a job that a file must name, in a good order."""
    values = job.model_dump(mode="json")
    defaults = SyncSpec().model_dump(mode="json")
    told = [n for n in SyncSpec.model_fields if n in ALWAYS or values[n] != defaults[n]]
    return {each: values[each] for each in ("name", "source", "target", *told)}


class _Loader(yaml.SafeLoader):
    """YAML, and with it JSON but for one thing: JSON escapes a rare character as two surrogates."""

    def construct_scalar(self, node: Any) -> Any:
        value = super().construct_scalar(node)
        if not isinstance(value, str) or value.isascii():
            return value
        try:
            return value.encode("utf-16", "surrogatepass").decode("utf-16")
        except UnicodeDecodeError as exc:
            raise yaml.MarkedYAMLError(
                problem="half a character", problem_mark=node.start_mark
            ) from exc


# -- faults and their lines ----------------------------------------------------------------------


def _field(name: object) -> str:
    return str(name).replace("-", "_")


def _fault(kind: str, where: Where, message: str) -> str:
    name = ".".join(map(str, where))
    if kind != "extra_forbidden":
        return f"{name}: {message[:1].lower()}{message[1:]}"
    if name in OF_CONNECTIONS:
        return f"`{name}` belongs into a saved connection, which the job names as source or target"
    close = difflib.get_close_matches(name, JobSettings.model_fields, 1)
    return f"`{name}` is no setting of a job" + (f"; is it `{close[0]}`?" if close else "")


def _lines(node: yaml.Node, where: Where) -> Iterator[tuple[Where, int]]:
    yield where, node.start_mark.line + 1
    if isinstance(node, yaml.MappingNode):
        for key, value in node.value:
            name = _field(key.value) if not where else str(key.value)
            yield from _lines(value, (*where, name))
            yield (*where, name), key.start_mark.line + 1
    elif isinstance(node, yaml.SequenceNode):
        for number, each in enumerate(node.value):
            yield from _lines(each, (*where, number))


def _twice(node: yaml.Node) -> Iterator[tuple[int, str]]:
    """Names that a mapping holds twice: YAML forbids it, and the parser takes the last one in silence."""
    if isinstance(node, yaml.MappingNode):
        seen: set[str] = set()
        for key, value in node.value:
            name = _field(key.value)
            if name in seen:
                yield key.start_mark.line + 1, name
            seen.add(name)
            yield from _twice(value)
    elif isinstance(node, yaml.SequenceNode):
        for each in node.value:
            yield from _twice(each)

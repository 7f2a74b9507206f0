"""The files under examples/monitoring fit grace.metrics, and each other."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from itertools import combinations
from typing import Any

import pytest
import yaml

from pg_grace.connection import Connection
from tests.conftest import Database, _new_database, rows
from tests.documentation import ROOT
from tests.server import Server

FOLDER = ROOT / "examples" / "monitoring"
QUERIES: dict[str, Any] = yaml.safe_load((FOLDER / "postgres_exporter.yaml").read_text(encoding="utf-8"))
RULES: dict[str, Any] = yaml.safe_load((FOLDER / "prometheus-rules.yaml").read_text(encoding="utf-8"))
DASHBOARD: dict[str, Any] = json.loads((FOLDER / "grafana-dashboard.json").read_text(encoding="utf-8"))
ALERTS = [rule for group in RULES["groups"] for rule in group["rules"]]
PANELS = [panel for panel in DASHBOARD["panels"] if panel["type"] != "row"]
# What Prometheus adds to every series, and what node_exporter says of its files.
FOREIGN_LABELS = {"instance", "job", "file", "severity"}


@pytest.fixture(scope="module")
def monitored(server: Server, template: str) -> Iterator[Connection]:
    """A database in which there is a sample of every metric."""
    with _new_database(server, template) as database:
        yield prepare(database)


def prepare(database: Database) -> Connection:
    conn = database.connect()
    conn.execute("create table \"Note 'x'\" (id int primary key); insert into \"Note 'x'\" values (1), (2)")
    conn.execute("select grace.protect('\"Note ''x''\"'); select grace.set_capacity('1 GB')")
    conn.execute("select grace.set_capacity('10 MB', '\"Note ''x''\"'); create table bare (id int primary key)")
    conn.execute("select grace.protect('bare')")
    conn.execute("delete from \"Note 'x'\"")
    conn.execute("call grace.purge()")
    return conn


def known(conn: Connection) -> set[str]:
    return {name for (name,) in rows(conn, "select distinct name from grace.metrics")}


def columns(query: dict[str, Any]) -> dict[str, dict[str, str]]:
    return {name: declared for column in query["metrics"] for name, declared in column.items()}


@pytest.mark.parametrize("namespace", QUERIES)
def test_a_query_of_postgres_exporter_has_the_columns_that_are_declared(monitored: Connection, namespace: str) -> None:
    cursor = monitored.execute(QUERIES[namespace]["query"])
    declared = columns(QUERIES[namespace])
    assert [column.name for column in cursor.description or ()] == list(declared)
    assert {column["usage"] for column in declared.values()} <= {"LABEL", "GAUGE", "COUNTER"}
    found = cursor.fetchall()
    assert found
    for row in found:
        # A null would become NaN, or a label that is empty.
        assert None not in row.values()


def test_postgres_exporter_gives_the_metrics_of_the_command(monitored: Connection) -> None:
    given = set()
    for namespace, query in QUERIES.items():
        declared = columns(query)
        labels = [name for name, column in declared.items() if column["usage"] == "LABEL"]
        for row in monitored.execute(query["query"]).fetchall():
            for name, column in declared.items():
                if column["usage"] != "LABEL":
                    given.add(
                        (
                            f"{namespace}_{name}",
                            column["usage"].lower(),
                            column["description"],
                            frozenset((label, row[label]) for label in labels),
                            row[name],
                        )
                    )
    assert given == {
        (name, kind, text, frozenset(labels.items()), number)
        for name, kind, text, labels, number in rows(
            monitored, "select name, type, help, labels, value from grace.metrics"
        )
    }


def expressions() -> list[tuple[str, str]]:
    found = [(rule["alert"], rule["expr"]) for rule in ALERTS]
    found += [(panel["title"], target["expr"]) for panel in PANELS for target in panel["targets"]]
    found += [(v["name"], v["definition"]) for v in DASHBOARD["templating"]["list"] if "definition" in v]
    return found


def test_expressions_name_metrics_and_labels_that_exist(monitored: Connection) -> None:
    metrics = known(monitored)
    labels_of: dict[str, set[str]] = {}
    for name, label in rows(monitored, "select name, jsonb_object_keys(labels) from grace.metrics"):
        labels_of.setdefault(name, set()).add(label)
    every_label = set().union(*labels_of.values()) | FOREIGN_LABELS
    for where, expression in expressions():
        outside = re.sub(r'"[^"]*"', '""', expression)
        assert set(re.findall(r"\bpg_grace_\w+", outside)) <= metrics, where
        for name, braces in re.findall(r"(\bpg_grace_\w+)\{([^}]*)\}", outside):
            assert set(re.findall(r"(\w+)\s*[=!]", braces)) <= labels_of[name] | FOREIGN_LABELS, where
        for listed in re.findall(r"\b(?:by|on) \(([^)]*)\)", outside):
            assert {label.strip() for label in listed.split(",")} <= every_label, where
    for rule in ALERTS:
        used = set(re.findall(r"\$labels\.(\w+)", json.dumps(rule["annotations"])))
        assert used <= every_label, rule["alert"]


def test_states_and_outcomes_in_expressions_exist(monitored: Connection) -> None:
    for label in ("state", "status"):
        there = {
            value
            for (value,) in rows(monitored, f"select labels ->> '{label}' from grace.metrics where labels ? '{label}'")
        }
        for where, expression in expressions():
            for values in re.findall(rf'\b{label}=~?"([^"]*)"', expression):
                assert set(values.split("|")) <= there, where


def test_every_alert_says_what_is_wrong_and_what_to_do() -> None:
    assert len({rule["alert"] for rule in ALERTS}) == len(ALERTS)
    for rule in ALERTS:
        assert set(rule) <= {"alert", "expr", "for", "labels", "annotations"}
        assert rule["labels"]["severity"] in ("page", "ticket")
        assert rule["annotations"]["summary"]
        assert rule["annotations"]["description"]


def test_the_dashboard_shows_every_metric(monitored: Connection) -> None:
    shown = {name for _, expression in expressions() for name in re.findall(r"\bpg_grace_\w+", expression)}
    assert known(monitored) <= shown


def test_the_dashboard_can_be_imported() -> None:
    panels = DASHBOARD["panels"]
    assert len({panel["id"] for panel in panels}) == len(panels)
    assert DASHBOARD["id"] is None
    assert DASHBOARD["schemaVersion"] >= 39
    source = {"type": "prometheus", "uid": "${datasource}"}
    variables = {variable["name"]: variable for variable in DASHBOARD["templating"]["list"]}
    assert variables["datasource"]["type"] == "datasource"
    for panel in PANELS:
        assert panel["datasource"] == source
        assert panel["title"]
        for target in panel["targets"]:
            assert target["datasource"] == source
            assert set(re.findall(r"\$(\w+)", target["expr"])) <= set(variables)
        assert len({target["refId"] for target in panel["targets"]}) == len(panel["targets"])
    for one, other in combinations([panel["gridPos"] for panel in panels], 2):
        assert (
            one["x"] + one["w"] <= other["x"]
            or other["x"] + other["w"] <= one["x"]
            or one["y"] + one["h"] <= other["y"]
            or other["y"] + other["h"] <= one["y"]
        )

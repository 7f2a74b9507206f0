"""rule add, alter, list, show, enable, disable, drop, preview, run, planned, notices, announce."""

from __future__ import annotations

import decimal
import json
import re
from collections.abc import Callable, Sequence
from typing import Any, ParamSpec, TypeVar

import click

from pg_grace.cli.options import (
    Settings,
    confirm,
    connected,
    dry_run_option,
    named,
    read_age,
    read_interval,
    read_key,
    split_list,
    table_named,
    with_options,
    yes_option,
)
from pg_grace.cli.preview import BLOCKED_SHOWN, goes_along, plain_key, preview, print_preview, sample_option
from pg_grace.cli.runs import FAILURES_SHOWN, failures_of
from pg_grace.cli.schedule import tell_pg_cron
from pg_grace.connection import Connection
from pg_grace.errors import CommandError, Exit
from pg_grace.output import escaped, interval, note, number_of, print_record, print_rows, quoted
from pg_grace.progress import RunProgress

P = ParamSpec("P")
R = TypeVar("R")

_SCHEDULES = {"daily": "0 3 * * *", "weekly": "0 3 * * 1", "monthly": "0 3 1 * *"}
_LIST_COLUMNS = (
    "name",
    "table",
    "action",
    "enabled",
    "filter",
    "starts",
    "period",
    "schedule",
    "in_words",
    "run_as",
    "last_run",
    "last_status",
    "last_start",
    "last_rows",
    "problem",
)
_LIST_ON_TERMINAL = {
    "name": "name",
    "table": "table",
    "action": "action",
    "enabled": "enabled",
    "filter": "filter",
    "period": "period",
    "in_words": "runs",
    "run_as": "as",
    "last_status": "last run",
    "last_rows": "rows",
    "problem": "problem",
}
_PLANNED_COLUMNS = ("table", "key", "rule", "action", "start", "due", "acts_at", "state", "reason", "record")
_PLANNED_ON_TERMINAL = {
    "table": "table",
    "key": "key",
    "rule": "rule",
    "due": "due",
    "acts_at": "acts at",
    "state": "state",
    "reason": "reason",
    "record": "record",
}
_RULES = """
    select r.*, r.target::text as table, period::text as period_in_words, notice::text as notice_in_words,
      case when r.schedule is not null then grace.schedule_in_words(r.schedule) end as in_words,
      case when r.schedule is not null and r.enabled then (select min(t) from grace.schedule_times(r.schedule, 1) t) end
        as next_start,
      (select j.zone from grace.jobs() j where j.rule = r.name) as schedule_zone
    from grace.rules r
"""


@click.group("rule")
def rules() -> None:
    """Say what happens to which records after what time, see it coming, and let it happen."""


_DEFINITION = (
    click.option("--filter", "filter_name", metavar="NAME", help="A saved filter: which rows."),
    click.option("--where", metavar="CONDITION", help="A condition beside the filter."),
    click.option(
        "--starts",
        metavar="EXPRESSION",
        help='From when the period counts: a column, an expression, or "end of year of COLUMN" (quarter, month).'
        " None: due at once.",
    ),
    click.option(
        "--activity",
        "activities",
        multiple=True,
        metavar="ACTIVITY",
        help='The period counts from the latest of these, and of --starts: "email.sent_at via lead_id", with'
        " where CONDITION behind it if need be.",
    ),
    click.option("--period", metavar="AGE", help="How long after that a row is due: 12 months, 6mo, 8y."),
    click.option(
        "--schedule",
        metavar="SCHEDULE",
        help='When it runs: daily, weekly, monthly (at 03:00), or as cron says it: "0 3 1 * *". None: only by hand.',
    ),
    click.option("--run-as", metavar="ROLE", help="The role that it acts as, with its rights and row security."),
    click.option(
        "--related-to",
        metavar="TABLE",
        help='Only rows that belong to one of this table: "lead", "lead via lead_id".',
    ),
    click.option("--max-rows", type=click.IntRange(min=0), metavar="N", help="A run of more rows waits for approval."),
    click.option(
        "--max-fraction",
        metavar="FRACTION",
        help="So does one of over 100 rows and more of the table than this: 10% (the default), 0.1.",
    ),
    click.option("--notice", metavar="AGE", help="It acts only on what was announced that long before: 14d."),
    click.option("--columns", metavar="A,B", help="What users know the records by, for previews and plans."),
    click.option("--batch-size", type=click.IntRange(min=1), metavar="N", help="Rows per transaction: 1000."),
    click.option("--pause", metavar="INTERVAL", help="Between the batches: none."),
    click.option("--max-duration", metavar="INTERVAL", help="Then a run stops, and the next one goes on."),
    click.option("--basis", metavar="TEXT", help="The law or contract that it follows from."),
    click.option(
        "--action", type=click.Choice(["delete", "keep"]), help="What it does: delete, unless said otherwise."
    ),
)


@rules.command("add")
@click.argument("name")
@click.option("--table", metavar="TABLE", help="The table, for all its rows or those of --where.")
@with_options(_DEFINITION)
@click.option("--keep-until", is_flag=True, help="Says --action keep: until it is due no rule deletes the row.")
@click.option("--final-by-due", is_flag=True, help="Acts so early that the buffer has run out, too, when a row is due.")
@click.option("--four-eyes", is_flag=True, help="A run that waits is approved by another than who wrote the rule.")
@dry_run_option
@connected
def add(
    connection: Connection,
    settings: Settings,
    *,
    name: str,
    table: str | None,
    keep_until: bool,
    final_by_due: bool,
    four_eyes: bool,
    dry_run: bool,
    **given: Any,
) -> None:
    """Add a rule: pg_grace rule add old --filter "No interest" --starts created_at --period 2y --schedule monthly.

    --action delete moves what is due into the buffer, as any DELETE does; --action keep stops all rules from deleting
    a row, and what hangs on it, before it is due. Afterwards it says what the rule will do.
    """
    if keep_until and given["action"] == "delete":
        raise click.UsageError("--keep-until says --action keep")
    definition = {
        **_definition(connection, given),
        "name": name,
        "target": None if table is None else table_named(connection, table),
        "action": "keep" if keep_until else given["action"],
        "final_by_due": final_by_due,
        "four_eyes": four_eyes,
    }
    said = {argument: value for argument, value in definition.items() if value is not None}
    arguments = ", ".join(f"{argument} => %({argument})s{_CASTS.get(argument, '')}" for argument in said)
    with connection.transaction(force_rollback=dry_run):
        connection.execute(f"select grace.add_rule({arguments})".encode(), said)
        explained = _look_at(connection, name)
    _explain(settings, *explained)
    if not dry_run:
        tell_pg_cron(connection, settings)


_CASTS = {
    "target": "::oid::regclass",
    "period": "::interval",
    "notice": "::interval",
    "pause": "::interval",
    "max_duration": "::interval",
    "max_fraction": "::numeric",
    "run_as": "::name",
    "columns": "::name[]",
    "activities": "::text[]",
}


def _definition(connection: Connection, given: dict[str, Any]) -> dict[str, Any]:
    """Return what the options say in the words of grace.add_rule; None for what was not said."""
    definition = {option: value for option, value in given.items() if value not in (None, ())}
    for option, argument in (("filter_name", "filter"), ("where", "predicate")):
        if option in definition:
            definition[argument] = definition.pop(option)
    for option, read in _READERS.items():
        if option in definition:
            definition[option] = read(connection, option.replace("_", "-"), definition[option])
    return definition


def _read_schedule(_connection: Connection, option: str, text: str) -> str:
    word = text.strip().lower()
    if word.isalpha() and word not in _SCHEDULES:
        raise click.BadParameter(
            f'{text!r}; say {", ".join(_SCHEDULES)}, or as cron says it: "0 3 1 * *"', param_hint=f"--{option}"
        )
    return _SCHEDULES.get(word, text)


def _read_fraction(_connection: Connection, option: str, text: str) -> str:
    found = re.fullmatch(r"(\d+(?:\.\d+)?|\.\d+) ?(%?)", text.strip())
    if found is None:
        raise click.BadParameter(f"{text!r} is no part of a table; say 10% or 0.1", param_hint=f"--{option}")
    fraction = decimal.Decimal(found[1]) / (100 if found[2] else 1)
    if fraction > 1:
        meant = "say 10% or 0.1" if found[2] else f"did you mean {found[1]}%?"
        raise click.BadParameter(f"{text!r} is more than the whole table; {meant}", param_hint=f"--{option}")
    return str(fraction)


def _read_list(_connection: Connection, _option: str, text: str) -> list[str]:
    return split_list(text)


def _read_all(_connection: Connection, _option: str, values: Sequence[str]) -> list[str]:
    return list(values)


_READERS: dict[str, Callable[[Connection, str, Any], Any]] = {
    "period": read_age,
    "notice": read_age,
    "pause": read_interval,
    "max_duration": read_interval,
    "schedule": _read_schedule,
    "max_fraction": _read_fraction,
    "columns": _read_list,
    "activities": _read_all,
}


def rule_named(connection: Connection, name: str) -> dict[str, Any]:
    """Return what there is to say of a rule; raises CommandError when there is none of that name."""
    row = connection.execute(f"{_RULES} where r.name = %s".encode(), (name,)).fetchone()
    return row or named("rule", name, connection.execute("select name from grace.rules order by name").fetchall())


def _look_at(connection: Connection, name: str) -> tuple[dict[str, Any], dict[str, Any] | None]:
    """Return a rule, and what is due by it now if it deletes; to be printed when it is saved."""
    rule = rule_named(connection, name)
    return rule, preview(connection, "rule", name, details=False) if rule["action"] == "delete" else None


def _explain(settings: Settings, rule: dict[str, Any], due: dict[str, Any] | None) -> None:
    """Say what a rule will do, and how many records are due now."""
    if settings.output_format != "table":
        print_record({**_shown(rule), "due_now": due and due["row_count"]}, settings.output_format)
        return
    click.echo(escaped(_in_words(rule)))
    if due is not None:
        click.echo(f"{number_of(due['row_count'], 'record')} {'is' if due['row_count'] == 1 else 'are'} due now.")
        if due["row_count"] and rule["notice"]:
            note(f"they are announced first, and go {_age(rule, 'notice')} after that: pg_grace rule announce")
        if due["would_be_held"]:
            note(f"a run now would wait for approval: {due['would_be_held']}")
    if rule["problem"]:
        note(f"it can't act: {rule['problem']}")


def _in_words(rule: dict[str, Any]) -> str:
    """Say in a sentence or two what a rule does."""
    condition = re.sub(r"\s*\n\s*", " ", rule["condition"])
    given = [part for part in (rule["given_starts"], *rule["activities"]) if part]
    starts = (
        given[0] if len(given) == 1 and not rule["activities"] else f"the latest of {', '.join(given)}" if given else ""
    )
    rows = f"rows of {rule['table']}" + (f" where {condition}" if condition != "true" else "")
    if rule["action"] == "keep":
        return (
            f"{rule['name']}: no rule deletes {rows}, nor what would take them along, before"
            f" {_age(rule, 'period')} have passed since {starts}."
        )
    if not starts:
        when = ", as soon as that is so"
    elif not rule["period"]:
        when = f", from {starts} on"
    else:
        when = f", {_age(rule, 'period')} after {starts}"
    if rule["final_by_due"]:
        when += " (so early that they can't be restored any more by then)"
    turns = "only by hand: pg_grace rule run"
    if rule["schedule"]:
        turns = f"{rule['in_words']} ({rule['schedule_zone']})"
    if rule["next_start"]:
        turns += f", next {rule['next_start'].isoformat(sep=' ', timespec='minutes')}"
    announced = f" It acts only on what was announced {_age(rule, 'notice')} before." if rule["notice"] else ""
    return f"{rule['name']}: deletes {rows}{when}. It runs as {rule['run_as']}, {turns}.{announced}"


def _age(rule: dict[str, Any], part: str) -> str:
    """Return an interval as the server writes it, with its months in full."""
    return re.sub(r"\bmon(s?)\b", r"month\1", rule[f"{part}_in_words"] or "")


def _shown(rule: dict[str, Any]) -> dict[str, Any]:
    """Return a rule for reading: the table by name, the schedule in words, no internals."""
    parts = {
        part: value
        for part, value in rule.items()
        if part
        not in (
            "target",
            "table",
            "id",
            "period_in_words",
            "notice_in_words",
            "in_words",
            "next_start",
            "schedule_zone",
        )
    }
    ahead = {"name": rule["name"], "table": rule["table"]}
    at = list(parts).index("schedule") + 1
    items = list(parts.items())
    words = {part: rule[part] for part in ("in_words", "schedule_zone", "next_start")}
    return {**ahead, **dict(items[:at]), **words, **dict(items[at:])}


_CLEARED = {
    "where": "predicate",
    "starts": "starts",
    "activity": "activities",
    "period": "period",
    "schedule": "schedule",
    "related-to": "related_to",
    "max-rows": "max_rows",
    "notice": "notice",
    "columns": "columns",
    "max-duration": "max_duration",
    "basis": "basis",
}


@rules.command("alter")
@click.argument("name")
@click.option("--rename", metavar="NAME", help="Its new name.")
@with_options(_DEFINITION)
@click.option("--final-by-due/--no-final-by-due", default=None, help="So early that the buffer has run out by then.")
@click.option("--four-eyes/--no-four-eyes", default=None, help="Approval only by another than who wrote the rule.")
@with_options(
    [
        click.option(f"--no-{option}", f"no_{argument}", is_flag=True, help="Take it away.")
        for option, argument in _CLEARED.items()
    ]
)
@dry_run_option
@connected
def alter(
    connection: Connection,
    settings: Settings,
    *,
    name: str,
    rename: str | None,
    final_by_due: bool | None,
    four_eyes: bool | None,
    dry_run: bool,
    **given: Any,
) -> None:
    """Change what a rule says; the rest stays: pg_grace rule alter old-leads --period 18mo --no-notice.

    --activity replaces all that were there. A run that is under way ends after its batch.
    """
    cleared = {argument for argument in _CLEARED.values() if given.pop(f"no_{argument}")}
    changes = _definition(connection, given)
    both = cleared & changes.keys()
    if both:
        raise click.UsageError(f"{', '.join(sorted(both))}: to be set and taken away at once")
    changes |= {argument: [] if argument in ("activities", "columns") else None for argument in cleared}
    changes |= {
        argument: value
        for argument, value in (("name", rename), ("final_by_due", final_by_due), ("four_eyes", four_eyes))
        if value is not None
    }
    if not changes:
        raise click.UsageError("say what to change")
    with connection.transaction(force_rollback=dry_run):
        connection.execute("select grace.alter_rule(%s, %s::jsonb)", (name, json.dumps(changes)))
        explained = _look_at(connection, rename or name)
    _explain(settings, *explained)
    if not dry_run:
        tell_pg_cron(connection, settings)


@rules.command("list")
@connected
def list_rules(connection: Connection, settings: Settings) -> None:
    """List the rules: what they do, when, and how they last went."""
    rows = connection.execute(f"{_RULES} order by r.name".encode()).fetchall()
    rows = [{**row, "period": _age(row, "period") or None} for row in rows]
    print_rows(rows, _LIST_COLUMNS, settings.output_format, _LIST_ON_TERMINAL)
    if not rows:
        note("there are no rules; pg_grace rule add")


@rules.command("show")
@click.argument("name")
@connected
def show(connection: Connection, settings: Settings, *, name: str) -> None:
    """Show all that a rule says."""
    rule = rule_named(connection, name)
    words = {part: _age(rule, part) or None for part in ("period", "notice")}
    if settings.output_format == "table":
        click.echo(escaped(_in_words(rule)))
    print_record({**_shown(rule), **words}, settings.output_format)


@rules.command("enable")
@click.argument("name")
@connected
def enable(connection: Connection, settings: Settings, *, name: str) -> None:
    """Let a rule act."""
    connection.execute("select grace.enable_rule(%s)", (name,))
    tell_pg_cron(connection, settings)
    note(f'rule "{name}" is enabled')


@rules.command("disable")
@click.argument("name")
@yes_option
@connected
def disable(connection: Connection, settings: Settings, *, name: str, yes: bool) -> None:
    """Stop a rule: its turns pass, and a run that is under way ends after its batch.

    Asks where the rule keeps records from others.
    """
    rule = rule_named(connection, name)
    if rule["action"] == "keep":
        confirm(f'Other rules may then delete what rule "{name}" keeps of {rule["table"]}. Disable it?', yes=yes)
    connection.execute("select grace.enable_rule(%s, false)", (name,))
    tell_pg_cron(connection, settings)
    note(f'rule "{name}" is disabled')


@rules.command("drop")
@click.argument("name")
@yes_option
@connected
def drop(connection: Connection, settings: Settings, *, name: str, yes: bool) -> None:
    """Forget a rule, with its exemptions and notices; what it has done stays in the runs."""
    rule = rule_named(connection, name)
    row = connection.execute(
        "select count(*) as exemptions from grace.exemptions where rule = %s and is_active", (name,)
    ).fetchone()
    assert row is not None
    along = f", and {number_of(row['exemptions'], 'exemption')} with it" if row["exemptions"] else ""
    keeps = f"Other rules may then delete what it keeps of {rule['table']}. " if rule["action"] == "keep" else ""
    confirm(f'{keeps}Forget rule "{name}"{along}?', yes=yes)
    connection.execute("select grace.drop_rule(%s)", (name,))
    tell_pg_cron(connection, settings)
    note(f'rule "{name}" is forgotten')


@rules.command("preview")
@click.argument("name")
@sample_option
@connected
def preview_rule(connection: Connection, settings: Settings, *, name: str, sample: int) -> None:
    """Show what a run would do now: how many rows, which, what goes along, what stands in the way, how long it takes.

    Nothing is changed. The token binds a run to this preview: pg_grace rule run NAME --token TOKEN.
    """
    print_preview(connection, settings, "rule", name, sample)


@rules.command("run")
@click.argument("name")
@click.option("--expect", type=click.IntRange(min=0), metavar="N", help="Do nothing unless so many rows are due.")
@click.option("--token", metavar="TOKEN", help="Do nothing unless the rows are those of the preview with this token.")
@click.option("--approve", is_flag=True, help="Go on with what the last run waits for.")
@dry_run_option
@yes_option
@connected
def run(
    connection: Connection,
    settings: Settings,
    *,
    name: str,
    expect: int | None,
    token: str | None,
    approve: bool,
    dry_run: bool,
    yes: bool,
) -> None:
    """Run a rule now, in batches, each of them committed. --dry-run is its preview.

    Asks first, and does nothing when the rows are no longer those that it asked about. Ends with exit code 0 when all
    is done, 4 when the run is held (it would pass a limit, and waits for --approve) or refused (nothing was deleted),
    1 when it failed, or is incomplete because single records could not be deleted or it was stopped.
    """
    if dry_run:
        print_preview(connection, settings, "rule", name, sample=10)
        return
    rule = rule_named(connection, name)
    if not yes and rule["enabled"] and rule["action"] != "keep":
        token = _ask(connection, name, token, approve=approve)
    before = connection.execute("select coalesce(max(id), 0) as id from grace.runs").fetchone()
    assert before is not None
    connection.execute("set client_min_messages = error")  # what a warning would say is said below
    with RunProgress(settings.target, before["id"], name):
        connection.execute("call grace.run(%s, %s, %s, %s)", (name, approve, expect, token))
    row = connection.execute(
        "select id as run, status, row_count, batches,"
        " coalesce((details ->> 'failures')::bigint, 0) as failures, duration, details from grace.runs"
        " where id > %s and kind = 'rule' and rule = %s order by id limit 1",
        (before["id"], name),
    ).fetchone()
    assert row is not None
    columns = ("run", "status", "row_count", "batches", "failures", "duration")
    print_rows([row], (*columns, "details") if settings.output_format == "json" else columns, settings.output_format)
    _say_what_was_done(connection, name, row)


def _ask(connection: Connection, name: str, token: str | None, *, approve: bool) -> str:
    """Ask whether to run a rule; return the token of what was asked about."""
    found = preview(connection, "rule", name)
    along = goes_along(found)
    if along:
        note(f"with them: {', '.join(along)}")
    for what, count in (
        ("exempt", found["exempt"]),
        ("held", found["held"]),
        ("kept by other rules", found["kept"]),
        ("not announced long enough", found["not_announced"]),
        # Those that rules or holds keep are among the blocked, up to as many.
        ("that can't be deleted", len(found["blocked"]) - min(found["kept"] + found["held"], BLOCKED_SHOWN)),
    ):
        if count:
            more = " or more" if what.startswith("that") and count >= BLOCKED_SHOWN else ""
            note(f"left out: {number_of(count, 'row')}{more} {what}")
    if found["would_be_held"] and not approve:
        note(f"it would delete nothing, and wait for approval: {found['would_be_held']}")
    confirm(f"Delete {number_of(found['deletes'], 'row')} of {found['table']}?", yes=False)
    return token or str(found["token"])


_LEFT_OUT = {"not announced": "not announced long enough", "kept": "kept by other rules"}


def _say_what_was_done(connection: Connection, name: str, run: dict[str, Any]) -> None:
    details = run["details"]
    for reason, count in details.get("left_out", {}).items():
        note(f"left out: {number_of(count, 'row')} {_LEFT_OUT.get(reason, reason)}")
    if details.get("left_out", {}).keys() & {"held", "kept"}:
        note(f"what keeps them: pg_grace run show {run['run']}")
    failures = failures_of(connection, run["run"], FAILURES_SHOWN) if run["failures"] else []
    for failure in failures:
        note(escaped(f"not deleted: {plain_key(failure['key'])}: {failure['reason']} (SQLSTATE {failure['sqlstate']})"))
    if run["failures"] > len(failures):
        note(f"and {run['failures'] - len(failures)} more: pg_grace run show {run['run']}")
    if run["status"] == "held":
        raise CommandError(
            f"nothing was deleted: the run is held\nDETAIL:  {details['held_because']}.\n"
            f"HINT:  See what it is about: pg_grace rule preview {quoted(name)};"
            f" then: pg_grace rule run {quoted(name)} --approve",
            Exit.REFUSED,
        )
    if run["status"] != "done":
        stopped = details.get("stopped", {}).get("reason") or details.get("problem")
        reason = f"\nDETAIL:  {stopped}" if stopped else ""
        raise CommandError(
            f"the run is {run['status']}{reason}\nHINT:  {_what_to_do(connection, name, run)}", Exit.FAILED
        )
    note(f"run {run['run']}: {number_of(run['row_count'], 'row')} deleted in {interval(run['duration'])}")


def _what_to_do(connection: Connection, name: str, run: dict[str, Any]) -> str:
    if "problem" in run["details"]:
        broken = rule_named(connection, name)["filter"]
        if (
            broken
            and connection.execute(
                "select from grace.filters where name = %s and problem is not null", (broken,)
            ).fetchone()
        ):
            return f"Say anew what its filter means: pg_grace filter alter {quoted(broken)} --where …"
        return f"Mend it: pg_grace rule show {quoted(name)} says what it needs, pg_grace rule alter changes it."
    if run["failures"]:
        return f"See which records stay, and why: pg_grace run show {run['run']}. The next run takes them up again."
    return "The next run goes on with what is left."


@rules.command("planned")
@click.option("--table", metavar="TABLE", help="Records of this table.")
@click.option("--key", metavar="KEY", help="One record, whenever it is due: 7, or id=7,line=2.")
@click.option("--within", default="30d", show_default=True, metavar="AGE|all", help="How far ahead.")
@click.option("--rule", "rule", metavar="NAME", help="What this rule plans.")
@click.option("--limit", type=click.IntRange(min=1), default=100, show_default=True, help="At most so many records.")
@connected
def planned(
    connection: Connection,
    settings: Settings,
    *,
    table: str | None,
    key: str | None,
    within: str,
    rule: str | None,
    limit: int,
) -> None:
    """Show when which rule will act on which records, as the rows are now; the soonest first."""
    if key is not None and table is None and rule is None:
        raise click.UsageError("--key needs --table, or --rule")
    values = {
        "target": None if table is None else table_named(connection, table),
        "key": read_key(key),
        "within": None if within.strip().lower() == "all" else read_age(connection, "within", within),
        "rule": rule,
        "limit": limit + 1,
    }
    rows = connection.execute(
        "select target_table::text as table, record_key as key, by_rule as rule, action, start, due, acts_at, state,"
        " reason, record from grace.planned(%(target)s::oid::regclass, %(key)s::jsonb, %(within)s::interval, %(rule)s)"
        " order by acts_at, due nulls first, 1, 2 limit %(limit)s",
        values,
    ).fetchall()
    if settings.output_format == "table":
        rows = [{**row, "key": plain_key(row["key"])} for row in rows]
    print_rows(rows[:limit], _PLANNED_COLUMNS, settings.output_format, _PLANNED_ON_TERMINAL)
    if not rows:
        note("nothing is planned" if key is None else _why_nothing(connection, values))
    for broken in connection.execute(
        "select name, problem from grace.rules where problem is not null and enabled"
        " and coalesce(target = %(target)s::oid::regclass, true) and coalesce(name = %(rule)s, true) order by name",
        values,
    ):
        note(f'rule "{broken["name"]}" stands still, and plans nothing: {broken["problem"]}')
    if len(rows) > limit:
        note(f"there are more than these {limit}; narrow the search, or say --limit")


def _why_nothing(connection: Connection, values: dict[str, Any]) -> str:
    """Return what there is to say of a record that no rule has to do with: above all when it is not there any more."""
    if values["target"] is not None and _may_see_deleted(connection, values["target"]):
        gone = connection.execute(
            "select d.id, d.deleted_at, d.reason, d.expires_at"
            " from grace.buffered(%(target)s::oid::regclass, keys => %(key)s::jsonb) b"
            " join grace.deletions d on d.id = b.deletion_id and d.target = %(target)s::oid::regclass"
            " order by d.deleted_at desc limit 1",
            values,
        ).fetchone()
        if gone is not None:
            why = f" ({gone['reason']})" if gone["reason"] else ""
            return (
                f"it was deleted at {gone['deleted_at']:%Y-%m-%d %H:%M%z}{why}, in deletion {gone['id']},"
                f" and can be restored until {gone['expires_at']:%Y-%m-%d %H:%M%z}"
            )
    return "no rule has anything to do with this record, or there is none with this key"


def _may_see_deleted(connection: Connection, target: int) -> bool:
    return (
        connection.execute(
            "select from grace.protected where target = %s::oid::regclass"
            " and pg_has_role(current_user, 'grace_operator', 'usage')",
            (target,),
        ).fetchone()
        is not None
    )


@rules.command("notices")
@click.argument("name", required=False)
@click.option("--limit", type=click.IntRange(min=1), default=100, show_default=True, help="At most so many records.")
@connected
def notices(connection: Connection, settings: Settings, *, name: str | None, limit: int) -> None:
    """List what rules with notice have announced, and from when on they may act on it."""
    if name is not None:
        rule_named(connection, name)
    rows = connection.execute(
        "select rule, target::text as table, key, due, announced_at, acts_after from grace.notices"
        " where %(rule)s::text is null or rule = %(rule)s order by acts_after, due, rule, key limit %(limit)s",
        {"rule": name, "limit": limit + 1},
    ).fetchall()
    if settings.output_format == "table":
        rows = [{**row, "key": plain_key(row["key"])} for row in rows]
    print_rows(rows[:limit], ("rule", "table", "key", "due", "announced_at", "acts_after"), settings.output_format)
    if not rows:
        note("nothing is announced")
    if len(rows) > limit:
        note(f"there are more than these {limit}; say --limit")


@rules.command("announce")
@click.argument("name")
@connected
def announce(connection: Connection, settings: Settings, *, name: str) -> None:
    """Announce now what a rule with notice is going to act on; it happens by itself every six hours."""
    row = connection.execute("select %(name)s as rule, grace.announce(%(name)s) as new", {"name": name}).fetchone()
    assert row is not None
    if settings.output_format != "table":
        print_record(row, settings.output_format)
        return
    note(f"{number_of(row['new'], 'record')} newly announced: pg_grace rule notices {quoted(name)}")

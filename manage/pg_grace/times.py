"""Times as a person gives them. What they leave open is asked, never guessed.

Words ("last tuesday around ten") become texts that the server reads, so that its time zone, its rules for the clock's
changes and its idea of now hold, never the client's. A text may come to mean several moments: then read_time asks.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta, timezone
from typing import Any

import click
import psycopg

from pg_grace.connection import Connection
from pg_grace.errors import CommandError, Exit
from pg_grace.output import note

_LONGEST = 200
_AROUND = "1 hour"
_UNREADABLE = (psycopg.DataError, psycopg.NotSupportedError, UnicodeError)

_DAY_NAMES = ("Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday", "Sunday")
_WEEKDAYS = {name.lower(): number for number, name in enumerate(_DAY_NAMES)}
_WEEKDAYS |= {name[:3]: number for name, number in _WEEKDAYS.items()}
_WEEKDAYS |= {"tues": 1, "weds": 2, "thur": 3, "thurs": 3}
_RELATIVE_DAYS = {"yesterday": -1, "today": 0, "tomorrow": 1}

_SMALL = (
    *("one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten", "eleven", "twelve"),
    *("thirteen", "fourteen", "fifteen", "sixteen", "seventeen", "eighteen", "nineteen"),
)
_TENS = {"twenty": 20, "thirty": 30, "forty": 40, "fifty": 50, "sixty": 60}
_NUMBERS = {word: number for number, word in enumerate(_SMALL, start=1)} | _TENS
_NUMBERS |= {
    f"{tens}{between}{_SMALL[ones]}": value + ones + 1
    for tens, value in _TENS.items()
    for ones in range(9)
    for between in "- "
}
_NOON = 12
_HOURS = range(1, _NOON + 1)
_MIDNIGHT = 24

_WORD = "|".join(sorted(_NUMBERS, key=len, reverse=True))
_HOUR_WORD = "|".join(_SMALL[:_NOON])
_WEEKDAY = "|".join(sorted(_WEEKDAYS, key=len, reverse=True))
_RELATIVE_DAY = "|".join(_RELATIVE_DAYS)
_FILLER = r"(?:(?:around|about|at|circa|ca\.?) )*"
_NAMED_ZONE = r"[a-z_]+(?:/[a-z0-9_+-]+)+"
_OFFSET = r"[+-]\d{1,2}(?::?\d\d){0,2}"

# A part of "2 days and 3 hours ago".
_PART = re.compile(
    rf"(?:(?P<half>half an?)|(?P<one>an?)|(?P<digits>\d{{1,9}}(?:\.\d{{1,9}})?)|(?P<word>{_WORD}))"
    r"(?P<and_half> and a half)? ?(?P<unit>second|sec|minute|min|hour|day|week|month|year)s?"
    r"(?P<half_more> and a half)?(?:,? and |, | |$)"
)
_AGO = re.compile(rf"{_FILLER}(?P<span>.+) ago")
_NOW = re.compile(rf"{_FILLER}now")
_DAY = re.compile(
    rf"{_FILLER}(?:(?:on )?(?P<last>last )?(?P<weekday>{_WEEKDAY})|(?P<relative>{_RELATIVE_DAY})|(?P<ago>.+ ago))"
)
_CLOCK_FIRST = re.compile(rf"(?P<clock>.+?),? (?P<day>(?:on )?(?:last )?(?:{_WEEKDAY})|{_RELATIVE_DAY})")
# What stands before a time of day is the day: in words, or as the server reads it.
_BEFORE = rf"(?:(?P<day>.+?)(?:, ?| ))??{_FILLER}"
_WITH_MINUTES = re.compile(
    rf"{_BEFORE}(?P<time>\d{{1,2}}:\d\d(?::\d\d(?:\.\d{{1,9}})?)?)(?: ?(?P<half>[ap]\.?m\b\.?))?"
    rf"(?: ?(?P<zone>z|{_OFFSET}|{_NAMED_ZONE}|(?!(?:{_WEEKDAY})$)[a-z]{{3,5}}))?"
)
_WITHOUT_MINUTES = re.compile(
    rf"{_BEFORE}(?:(?P<exact>\d{{1,2}}) ?h|(?P<digits>\d{{1,2}})|(?P<word>{_HOUR_WORD})|(?P<name>noon|midnight))"
    rf"(?: o'clock)?(?: ?(?P<half>[ap]\.?m\b\.?))?(?: (?P<zone>utc|gmt|{_NAMED_ZONE}))?"
)

# A date in this form is read alike whatever the order of day and month, and there is no time zone in it.
_ISO_WITHOUT_ZONE = re.compile(r"\d{4}-\d{1,2}-\d{1,2}(?:[ t]\d{1,2}:\d\d(?::\d\d(?:\.\d+)?)?)?", re.IGNORECASE)
_ISO_DATE = re.compile(r"\b\d{4}-\d{1,2}-\d{1,2}(?!\d)|\b\d{8}(?!\d)")
_ITS_NAMED_ZONE = re.compile(rf" ({_NAMED_ZONE})", re.IGNORECASE)
_ORDERS = ("MDY", "DMY", "YMD")

WHICH_DAY = "it does not say which day"
WHICH_WEEK = "it does not say today or a week ago"
WHICH_HALF = "it does not say before noon or after"
WHICH_TWELVE = "it does not say noon or midnight"
WHICH_MIDNIGHT = "a day begins and ends with midnight"
WHICH_ORDER = "it does not say which number is the day and which the month"
TWICE = "the clock was set back and showed this time twice"
NEVER = "the clock was set forward and skipped this time"


class NotATimeError(ValueError):
    """A text that is no time."""


@dataclass(frozen=True)
class Reading:
    """What a text means.

    moments -- in order, each with the offset that the session's time zone has then; more than one only with a doubt
    doubts -- what the text leaves open
    whole_day -- the text gives no time of day; its moment is the day's beginning
    """

    moments: tuple[datetime, ...]
    doubts: tuple[str, ...]
    whole_day: bool


@dataclass(frozen=True)
class _Said:
    """What words say: one of some texts for the server to read, or a span before now."""

    texts: tuple[str, ...] = ()
    doubts: tuple[str, ...] = ()
    span: str | None = None


def parse(connection: Connection, text: str, now: datetime | None = None) -> Reading:
    """Read a time in the session's time zone; now is the server's unless given.

    Raises NotATimeError. Where the words leave something open, moments that are still to come are left out: nothing
    has been deleted then.
    """
    plain = " ".join(text.split())
    if not plain or len(text) > _LONGEST:
        raise NotATimeError(text)
    try:
        now = _shifted(connection, now, "0")
        for said in _readings(plain, now.replace(tzinfo=None)):
            reading = _read(connection, said, now)
            if reading is not None:
                return reading
    except OverflowError as error:
        raise NotATimeError(text) from error
    raise NotATimeError(text)


def _readings(text: str, wall: datetime) -> Iterator[_Said]:
    """Yield what a text may say, the likeliest first; the first that the server can read is meant."""
    words = text.lower()
    if _NOW.fullmatch(words):
        yield _Said(span="0")
        return
    ago = _AGO.fullmatch(words)
    if ago:
        yield _Said(span=f"{_span(ago['span']) or ago['span']} ago")
        return
    turned = _CLOCK_FIRST.fullmatch(words)
    said = _day_and_clock(f"{turned['day']} {turned['clock']}", wall) if turned else None
    said = said or _day_and_clock(words, wall)
    if said:
        yield said
        return
    yield _Said((_for_server(text, wall),))
    clock = _WITH_MINUTES.fullmatch(words) or _WITHOUT_MINUTES.fullmatch(words)
    if clock and clock["day"]:
        times, doubts = _times(clock)
        day = _for_server(clock["day"], wall)
        yield _Said(tuple(f"{day} {time}" for time in times), doubts)


def _for_server(text: str, wall: datetime) -> str:
    """Return a text without leading filler, and with the days that depend on now as dates."""
    text = re.sub(rf"^{_FILLER}(?:on )?", "", text, flags=re.IGNORECASE)
    return re.sub(
        rf"\b({_RELATIVE_DAY})\b",
        lambda found: (wall.date() + timedelta(days=_RELATIVE_DAYS[found[1].lower()])).isoformat(),
        text,
        flags=re.IGNORECASE,
    )


def _span(text: str) -> str | None:
    """Return "an hour and a half" as the server reads it: "1.5 hour"; None when a word is unknown."""
    parts = []
    at = 0
    while at < len(text):
        part = _PART.match(text, at)
        if part is None or (part["half"] and (part["and_half"] or part["half_more"])):
            return None
        at = part.end()
        number = part["digits"] or ("0.5" if part["half"] else "1" if part["one"] else str(_NUMBERS[part["word"]]))
        if part["and_half"] or part["half_more"]:
            if "." in number:
                return None
            number += ".5"
        parts.append(f"{number} {part['unit']}")
    return " ".join(parts)


def _day_and_clock(words: str, wall: datetime) -> _Said | None:
    """Read a day in words and a time of day, or one of them."""
    days = _days(words, wall)
    if days:
        return _Said(tuple(day.isoformat() for day in days), (WHICH_WEEK,) * (len(days) - 1))
    clock = _WITH_MINUTES.fullmatch(words) or _WITHOUT_MINUTES.fullmatch(words)
    if clock is None:
        return None
    if clock["day"]:
        days = _days(clock["day"], wall)
        which = (WHICH_WEEK,) * (len(days) - 1)
    else:
        days = [wall.date() - timedelta(days=1), wall.date()]
        which = (WHICH_DAY,)
    if not days:
        return None
    times, doubts = _times(clock)
    return _Said(tuple(f"{day.isoformat()} {time}" for day in days for time in times), (*which, *doubts))


def _days(words: str, wall: datetime) -> list[date]:
    """Return the days that words can mean; none when they are not a day.

    A weekday is the last one that is not to come; where today is one, it can be today or a week ago. "Last" takes today
    out: "last tuesday" is the nearest one before today, also when that is in this week.
    """
    found = _DAY.fullmatch(words)
    if found is None:
        return []
    today = wall.date()
    if found["relative"]:
        return [today + timedelta(days=_RELATIVE_DAYS[found["relative"]])]
    if found["ago"]:
        counts = [part.split() for part in re.findall(r"\S+ \S+", _span(found["ago"].removesuffix(" ago")) or "")]
        if any(unit not in ("day", "week") or not number.isdecimal() for number, unit in counts):
            return []
        back = sum(int(number) * (7 if unit == "week" else 1) for number, unit in counts)
        return [today - timedelta(days=back)] if counts else []
    back = (today.weekday() - _WEEKDAYS[found["weekday"]]) % 7
    if back:
        return [today - timedelta(days=back)]
    week_ago = today - timedelta(days=7)
    return [week_ago] if found["last"] else [week_ago, today]


def _times(clock: re.Match[str]) -> tuple[list[str], tuple[str, ...]]:
    """Return the times of day that a text can mean, and what it leaves open; none when it contradicts itself."""
    parts = clock.groupdict()
    half = f" {parts['half'][0]}m" if parts["half"] else ""
    zone = f" {parts['zone']}" if parts["zone"] else ""
    if "time" in parts:
        return [f"{parts['time']}{half}{zone}"], ()
    if parts["exact"] or parts["name"]:
        midnight = parts["name"] == "midnight"
        hours = [0, _MIDNIGHT] if midnight else [int(parts["exact"] or _NOON)]
        return [] if half else [f"{hour}:00{zone}" for hour in hours], (WHICH_MIDNIGHT,) * midnight
    hour = int(parts["digits"] or _NUMBERS[parts["word"]])
    doubts: tuple[str, ...] = ()
    if half:
        return [f"{hour}:00{half}{zone}"] if hour in _HOURS else [], doubts
    hours = [hour]
    if hour == _NOON:
        hours, doubts = [0, _NOON, _MIDNIGHT], (WHICH_TWELVE,)
    elif hour in _HOURS:
        hours, doubts = [hour, hour + _NOON], (WHICH_HALF,)
    return [f"{hour}:00{zone}" for hour in hours], doubts


def _read(connection: Connection, said: _Said, now: datetime) -> Reading | None:
    """Let the server read what was said; None when it can't."""
    if said.span is not None:
        moment = _shifted(connection, now, said.span)
        return Reading((moment,), (), whole_day=False)
    found = [_moments(connection, text) for text in said.texts]
    if said.doubts:
        past = [(kept, doubt) for moments, doubt in found if (kept := {at for at in moments if at <= now})]
        found = past or found
    moments = sorted(set().union(*(moments for moments, _ in found)))
    if not moments:
        return None
    doubts = list(dict.fromkeys([*said.doubts, *(doubt for _, own in found for doubt in own)]))
    if WHICH_WEEK in doubts and len({moment.date() for moment in moments}) == 1:
        doubts.remove(WHICH_WEEK)
    return Reading(tuple(moments), tuple(doubts), whole_day=any(_is_day(connection, text) for text in said.texts))


def _is_day(connection: Connection, text: str) -> bool:
    """Return whether a text that the server reads has room for a time of day."""
    return ":" not in text and bool(_tried(connection, "select %(text)s::timestamptz", {"text": f"{text} 12:34"}))


def _moments(connection: Connection, text: str) -> tuple[set[datetime], list[str]]:
    """Return the moments that the server can read a text as, and what makes them more than one."""
    if _ISO_WITHOUT_ZONE.fullmatch(text):
        return _instants(connection, text, None)
    moments: set[datetime] = set()
    doubts: list[str] = []
    weekdays = {_WEEKDAYS[name] for name in re.findall(rf"\b({_WEEKDAY})\b", text.lower())}
    named = _ITS_NAMED_ZONE.search(text)
    seen = set()
    for order in [None] if _ISO_DATE.search(text) else _ORDERS:
        style = {} if order is None else {"datestyle": f"ISO, {order}"}
        read = _tried(connection, _AS_WRITTEN, {"text": text}, **style)
        # PostgreSQL reads over a weekday that the date is not.
        if not read or read[0]["wall"] in seen or not weekdays <= {read[0]["wall"].weekday()}:
            continue
        seen.add(read[0]["wall"])
        elsewhere = [_tried(connection, _AS_WRITTEN, {"text": text}, timezone=zone, **style) for zone in _FAR_APART]
        has_zone = len({row["utc"] for rows in elsewhere for row in rows or ()}) == 1
        if has_zone and not named:
            moments.add(_moment(read[0]))
            continue
        own, doubt = _instants(connection, read[0]["wall"], named[1] if has_zone and named else None)
        moments |= own
        doubts += doubt
    return moments, [WHICH_ORDER] * (len(seen) > 1) + doubts


def _instants(connection: Connection, wall: datetime | str, zone: str | None) -> tuple[set[datetime], list[str]]:
    """Return when the clock shows a time: twice when it is set back over it, never when it is set forward over it.

    What it never shows is read with the offset before the change and with the one after it.
    """
    query = _INSTANTS_IN_ZONE if zone else _INSTANTS
    rows = _tried(connection, query, {"wall": wall, "zone": zone}) or []
    shown = {_moment(row) for row in rows if row["shown"]}
    if shown:
        return shown, [TWICE] * (len(shown) > 1)
    return {_moment(row) for row in rows}, [NEVER] * bool(rows)


# How a text reads without its time zone, and as the moment it is. As text: one parameter would have one type.
_AS_WRITTEN = """
select %(text)s::text::timestamp as wall, moment at time zone 'UTC' as utc,
  extract(timezone from moment)::int as utc_offset
from (select %(text)s::text::timestamptz as moment) as given
"""
_FAR_APART = ("5", "-5")

# An offset that holds within a day of a time is one that this time may have been meant with.
_INSTANTS_TEMPLATE = """
with near as (
  select wall, {as_moment} + hour * interval '1 hour' as moment
  from (select %(wall)s::timestamp as wall) as given, generate_series(-24, 24, 6) as hour
),
meant as (
  select distinct wall, (wall - ({as_shown} - moment at time zone 'UTC')) at time zone 'UTC' as moment from near
)
select moment at time zone 'UTC' as utc, extract(timezone from moment)::int as utc_offset, {as_shown} = wall as shown
from meant
"""
# Casts go by the session's time zone. Its name would not do: after "at time zone" CET is an abbreviation.
_INSTANTS = _INSTANTS_TEMPLATE.format(as_moment="wall::timestamptz", as_shown="moment::timestamp")
_INSTANTS_IN_ZONE = _INSTANTS_TEMPLATE.format(
    as_moment="(wall at time zone %(zone)s::text)", as_shown="(moment at time zone %(zone)s::text)"
)
_SHIFTED = """
select moment at time zone 'UTC' as utc, extract(timezone from moment)::int as utc_offset
from (select coalesce(%(moment)s::timestamptz, now()) + %(span)s::interval as moment) as given
"""


def _shifted(connection: Connection, moment: datetime | None, span: str) -> datetime:
    """Return a moment, or the server's now, and an interval; raises NotATimeError when it is none."""
    rows = _tried(connection, _SHIFTED, {"moment": moment, "span": span})
    if not rows:
        raise NotATimeError(span)
    return _moment(rows[0])


def _moment(row: dict[str, Any]) -> datetime:
    """Return a moment with the offset that the server, not the client, says it has."""
    utc: datetime = row["utc"].replace(tzinfo=UTC)
    try:
        return utc.astimezone(timezone(timedelta(seconds=row["utc_offset"])))
    except OverflowError as error:
        raise NotATimeError(str(utc)) from error


def _tried(connection: Connection, query: str, values: dict[str, Any], **settings: str) -> list[dict[str, Any]] | None:
    """Run a query under settings that end with it; None when the server can't read a value, or Python a result."""
    try:
        with connection.transaction(force_rollback=True):
            for name, value in settings.items():
                connection.execute("select set_config(%s, %s, true)", (name, value))
            return connection.execute(query.encode(), values).fetchall()
    except _UNREADABLE:
        return None


def read_time(
    connection: Connection, option: str, text: str | None, now: datetime | None = None, *, of_day: bool = False
) -> datetime | None:
    """Read an option's time; ask at a terminal what it leaves open, and refuse where there is none.

    Echoes on stderr which moment it is. Raises click.BadParameter when it is no time, or only a day with of_day.
    """
    if text is None:
        return None
    try:
        reading = parse(connection, text, now)
    except NotATimeError as error:
        raise click.BadParameter(
            f"{text!r} is not a time; say 2026-11-17 10:00, yesterday 10:00, last tuesday 22:00 or 2 hours ago",
            param_hint=f"--{option}",
        ) from error
    if of_day and reading.whole_day:
        raise click.BadParameter(
            f"{text!r} is a whole day; say a time of day with it, as in yesterday 10:00", param_hint=f"--{option}"
        )
    moment = _ask(option, text, reading) if reading.doubts else reading.moments[0]
    note(f"--{option} is {_exact(moment)} ({connection.info.parameter_status('TimeZone')})")
    return moment


def _ask(option: str, text: str, reading: Reading) -> datetime:
    problem = f"--{option} {text!r} is not one moment: {', and '.join(reading.doubts)}"
    if not (sys.stdin.isatty() and sys.stderr.isatty()):
        ways = "\n".join(f"  --{option} '{_exact(moment)}'" for moment in reading.moments)
        raise CommandError(f"{problem}\nHINT:  There is nobody to ask here: say one of these.\n{ways}", Exit.REFUSED)
    note(problem)
    for number, moment in enumerate(reading.moments, start=1):
        note(f"  {number}  {_exact(moment)}, {_DAY_NAMES[moment.weekday()]}")
    last = len(reading.moments)
    answer: int = click.prompt(
        "Which one?" if last > 1 else "This one?",
        type=click.IntRange(1, last),
        default=None if last > 1 else 1,
        prompt_suffix=" ",
        err=True,
    )
    return reading.moments[answer - 1]


def read_window(
    connection: Connection,
    start: str | None,
    end: str | None,
    around: str | None,
    names: tuple[str, str] = ("from", "to"),
    now: datetime | None = None,
) -> tuple[datetime | None, datetime | None]:
    """Read the two ends of a window as the options named, or an hour to each side of --around.

    Raises click.UsageError for both at once, and for a window that ends before it begins.
    """
    first, last = names
    if around is not None:
        if start is not None or end is not None:
            raise click.UsageError(f"--around stands for --{first} and --{last}: say the one or the others")
        middle = read_time(connection, "around", around, now, of_day=True)
        assert middle is not None
        try:
            window = _shifted(connection, middle, f"-{_AROUND}"), _shifted(connection, middle, _AROUND)
        except NotATimeError as error:
            raise click.BadParameter(f"{around!r} is out of range", param_hint="--around") from error
        note(f"from {_exact(window[0])} to {_exact(window[1])}")
        return window
    now = _shifted(connection, now, "0")
    begins, ends = read_time(connection, first, start, now), read_time(connection, last, end, now)
    if begins is None or ends is None:
        return begins, ends
    if begins >= ends:
        raise click.UsageError(f"--{first} {_exact(begins)} is not before --{last} {_exact(ends)}")
    shown = ends.replace(tzinfo=None) - begins.replace(tzinfo=None)
    if shown != ends - begins:
        note(f"this window spans a change of the clock: it is {_length(ends - begins)} long, not {_length(shown)}")
    return begins, ends


def _exact(moment: datetime) -> str:
    return moment.isoformat(sep=" ")


def _length(duration: timedelta) -> str:
    """Return a duration in words: "1 day 2 hours"."""
    minutes, seconds = divmod(abs(duration).total_seconds(), 60)
    hours, minutes = divmod(int(minutes), 60)
    days, hours = divmod(hours, 24)
    counts = {"day": days, "hour": hours, "minute": minutes, "second": seconds}
    words = " ".join(f"{count:g} {unit}{'' if count == 1 else 's'}" for unit, count in counts.items() if count)
    return ("-" if duration < timedelta() else "") + (words or "0 hours")

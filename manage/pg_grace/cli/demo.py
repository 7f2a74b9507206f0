"""demo: the whole story on a server of its own."""

from __future__ import annotations

import sys

import click

from pg_grace.demo import Demo


@click.command()
@click.option(
    "--pause/--no-pause",
    default=None,
    help="Wait for Enter at the end, with the server still there to try things on. [default: on a terminal]",
)
def demo(*, pause: bool | None) -> None:
    """Show on a throwaway server what pg_grace does: protect, delete, look, restore, purge."""
    Demo(pause=sys.stdin.isatty() if pause is None else pause).run()

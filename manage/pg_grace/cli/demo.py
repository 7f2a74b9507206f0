"""demo: the whole story on a server of its own."""

from __future__ import annotations

import click

from pg_grace.demo import run


@click.command()
@click.option("--keep-open", is_flag=True, help="Leave the server running at the end, until Enter is pressed.")
def demo(*, keep_open: bool) -> None:
    """Show on a throwaway server what pg_grace does: protect, delete, look, restore, purge."""
    run(keep_open=keep_open)

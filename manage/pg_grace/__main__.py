"""python -m pg_grace: the command line, where the command itself is not on the path."""

from pg_grace.cli import main

main(prog_name="pg_grace")

"""Alembic's entry point: the connection, or the offline buffer, comes from pg_grace.migrate."""

from alembic import context

config = context.config

if context.is_offline_mode():
    context.configure(
        dialect_name="postgresql",
        version_table_schema="grace",
        output_buffer=config.output_buffer,
        transactional_ddl=False,
    )
    context.run_migrations()
else:
    context.configure(
        connection=config.attributes["connection"],
        version_table_schema="grace",
        transactional_ddl=True,
    )
    with context.begin_transaction():
        context.run_migrations()

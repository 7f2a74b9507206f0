"""pg_grace against bare PostgreSQL: ratios from one run."""

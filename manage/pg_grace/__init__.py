"""pg_grace: every DELETE gets a grace period."""

__version__ = "0.1.0"

"""The manual, and what generates its references."""

"""PostgreSQL: pools, migrations, notifications."""

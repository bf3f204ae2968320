"""The whole product on one machine, with nothing installed: PostgreSQL, Valkey and both services."""

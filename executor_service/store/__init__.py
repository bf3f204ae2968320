"""Every SQL statement of executor_service, by noun. Functions on a connection: the caller decides what one
transaction covers."""

"""What surrounds every call, outermost first: unknown methods, request ids, access log, errors,
draining, authentication, validation, authorization. One concern a file."""

"""What surrounds every call, outermost first: unknown methods, request ids, access log, errors,
authentication, validation, authorization. One concern a file."""

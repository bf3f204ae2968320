"""What surrounds every call, outermost first: request ids, access log, errors, draining, decoding, authorization,
validation. One concern a file. Whether a call is let in at all is servicekit.rpc.admission's to decide."""

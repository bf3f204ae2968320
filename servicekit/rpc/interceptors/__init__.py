"""The interceptors of every call, outermost first: request ids, access log, errors, draining, decoding, authorization,
validation. One concern a module. Before all of them, servicekit.rpc.admission decides whether a call is admitted."""

"""The interceptors of every call, outermost first: request ids, traces, access log, errors, draining, token expiry,
decoding, authorization, validation, subjects. One concern a module. Before all of them, servicekit.rpc.admission admits
or refuses calls.
"""

"""The API's description, OpenAPI 3.1, out of the protos. tools/gen.py writes it to gateway/openapi.json."""

"""The whole description: every route with its parameters, bodies and answers."""

from collections.abc import Iterator, Sequence
from typing import Any, Final, cast

from google.protobuf.descriptor import Descriptor, FieldDescriptor

from gateway.openapi.comments import Comments
from gateway.openapi.schemas import Schema, Schemas
from gateway.routes import Route, Routes

ABOUT: Final = """\
Runs of automation playbooks over HTTP: what the gRPC services have, under the routes of the product this replaces.

Names are in camelCase; requests may spell fields as the protos do, too. Unknown fields and query parameters are
refused. 64-bit numbers are JSON numbers. Every answer has an `x-request-id`, which is the request's when that has one.
Errors are `application/problem+json` (RFC 9457)."""
PROBLEM: Final[Schema] = {
    "type": "object",
    "description": "An error. `reason` is for programs, `detail` for a person; the last four are for older clients.",
    "properties": {
        "type": {"type": "string"},
        "title": {"type": "string"},
        "status": {"type": "integer"},
        "detail": {"type": "string"},
        "reason": {"type": "string"},
        "fields": {
            "type": "array",
            "items": {
                "type": "object",
                "properties": {"field": {"type": "string"}, "description": {"type": "string"}},
                "required": ["field", "description"],
            },
        },
        "metadata": {"type": "object", "additionalProperties": {"type": "string"}},
        "requestId": {"type": "string"},
        "message": {"type": "string"},
        "code": {"type": "string"},
        "error": {"type": "string"},
        "statusCode": {"type": "integer"},
    },
    "required": ["type", "title", "status", "detail", "reason", "fields", "metadata", "requestId"],
}
IS_PROBLEM: Final[Schema] = {
    "description": "A problem.",
    "content": {"application/problem+json": {"schema": {"$ref": "#/components/schemas/Problem"}}},
}


class Document:
    """Describes `routes`, with the comments of the protos."""

    def __init__(self, routes: Routes, comments: Comments) -> None:
        self._routes = routes
        self._comments = comments
        self._schemas = Schemas(comments)
        self._operations: dict[str, int] = {}  # how many there are of an RPC

    def build(self, version: str) -> Schema:
        """Return the document. `version` is the API's."""
        paths: dict[str, Any] = {}
        for route in self._routes.all:
            paths.setdefault(route.template.text, {})[route.method.lower()] = self._operation(route)
        paths["/healthz"] = {"get": _check("Whether this process lives.", "alive")}
        paths["/readyz"] = {"get": _check("Whether both services serve; 503 says which does not.", "ready")}
        services = {route.rpc.containing_service.name: route.rpc.containing_service for route in self._routes.all}
        return {
            "openapi": "3.1.0",
            "info": {"title": "Playbook runs", "version": version, "description": ABOUT},
            "servers": [{"url": "/"}],
            "security": [{"token": []}],
            "tags": [
                {"name": name, "description": self._comments.of(service.full_name)}
                for name, service in services.items()
            ],
            "paths": paths,
            "components": {
                "securitySchemes": {"token": {"type": "http", "scheme": "bearer", "bearerFormat": "JWT"}},
                "schemas": {**dict(sorted(self._schemas.components.items())), "Problem": PROBLEM},
            },
        }

    def _operation(self, route: Route) -> Schema:
        rpc = route.rpc
        number = self._operations[rpc.name] = self._operations.get(rpc.name, 0) + 1
        text = self._comments.of(rpc.full_name)
        summary = " ".join(text.split()).partition(". ")[0].rstrip(".")
        operation: Schema = {
            "operationId": rpc.name if number == 1 else f"{rpc.name}{number}",
            "tags": [rpc.containing_service.name],
            "summary": summary,
            "description": text,
            "parameters": [*self._in_path(route), *self._in_query(route), *_in_headers(route)],
            "responses": {**self._answers(route), "default": IS_PROBLEM},
        }
        if route.body:
            schema = self._body(route)
            operation["requestBody"] = {
                "required": "required" in schema,
                "content": {"application/json": {"schema": schema}},
            }
        return operation

    def _body(self, route: Route) -> Schema:
        if route.body == "*":
            return self._schemas.body(route.rpc.input_type, route.template.variables)
        return self._schemas.field(route.rpc.input_type.fields_by_name[route.body], is_input=True)

    def _in_path(self, route: Route) -> Iterator[Schema]:
        for name in route.template.variables:
            schema = self._schemas.field(route.rpc.input_type.fields_by_name[name], is_input=True)
            text = schema.pop("description", "")
            # In the path the proto's spelling stays, for the templates have it.
            yield {"name": name, "in": "path", "required": True, "description": text, "schema": schema}

    def _in_query(self, route: Route) -> Iterator[Schema]:
        if route.body != "*":
            taken = {*route.template.variables, route.body}
            fields = [field for field in route.rpc.input_type.fields if field.name not in taken]
            yield from self._parameters(fields, "")

    def _parameters(self, fields: Sequence[FieldDescriptor], prefix: str) -> Iterator[Schema]:
        for field in fields:
            name = f"{prefix}{field.json_name}"
            if field.message_type:
                yield from self._parameters(field.message_type.fields, f"{name}.")
                continue
            schema = self._schemas.field(field, is_input=True)
            text = schema.pop("description", "")
            yield {"name": name, "in": "query", "description": text, "schema": schema}

    def _answers(self, route: Route) -> Schema:
        output = route.rpc.output_type
        if route.rpc.server_streaming:
            events = "Server-Sent Events. An event's id is where Last-Event-ID resumes; its data is as below, in JSON."
            return {
                "200": {"description": events, "content": {"text/event-stream": {"schema": {"type": "string"}}}},
                "204": {"description": "The stream has ended, and the client has all of it."},
            }
        field = output.fields_by_name.get(route.response_body)
        schema = self._schemas.answer(output) if field is None else self._bare(field)
        headers: Schema = {}
        resource = output if field is None else field.message_type
        has_tag = bool(resource and "sequence" in resource.fields_by_name and not (field and field.is_repeated))
        if has_tag:
            headers["etag"] = _header("The run's sequence, in quotation marks.")
        if "next_page_token" in output.fields_by_name:
            headers["link"] = _header('The next page, rel="next"; none on the last one.')
        content = {"application/json": {"schema": schema}}
        answers: Schema = {"200": {"description": "Done.", "content": content, "headers": headers}}
        if "created" in output.fields_by_name:
            answers["200"]["description"] = "An earlier request created it."
            location = {"location": _header("Where it is read.")}
            answers["201"] = {"description": "Created.", "content": content, "headers": {**headers, **location}}
        if has_tag and route.method == "GET":
            answers["304"] = {"description": "It is as If-None-Match says."}
        return answers

    def _bare(self, field: FieldDescriptor) -> Schema:
        one = self._schemas.answer(cast(Descriptor, field.message_type))
        return {"type": "array", "items": one} if field.is_repeated else one


def _in_headers(route: Route) -> Iterator[Schema]:
    if route.rpc.server_streaming:
        text = "The id of the last event the client has: the stream goes on after it."
        yield {"name": "Last-Event-ID", "in": "header", "description": text, "schema": {"type": "string"}}


def _header(text: str) -> Schema:
    return {"description": text, "schema": {"type": "string"}}


def _check(text: str, status: str) -> Schema:
    schema = {"type": "object", "properties": {"status": {"const": status}}, "required": ["status"]}
    answer = {"description": "It is.", "content": {"application/json": {"schema": schema}}}
    return {
        "operationId": f"is_{status}",
        "summary": text,
        "security": [],
        "responses": {"200": answer, "503": IS_PROBLEM},
    }

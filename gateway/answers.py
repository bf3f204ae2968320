"""The answers to unary calls: status, headers and JSON out of a response message."""

from http import HTTPStatus
from typing import Any
from urllib.parse import parse_qsl, urlencode

from google.protobuf.message import Message
from google.protobuf.message_factory import GetMessageClass
from starlette.datastructures import Headers
from starlette.responses import Response

from gateway.encoder import Encoder, to_json
from gateway.problems import Problem
from gateway.routes import Route, Routes

# A page token says where the page before ended; an offset would skip runs again.
NOT_IN_LINKS = ("pageToken", "page_token", "offset")


class Answers:
    """Makes answers. What the fields of a response are called decides:

    - `created` that is true: 201 with Location; false, or none: 200;
    - a resource with a `sequence`: ETag, and 304 when If-None-Match has the same one;
    - `next_page_token`: Link to the next page.
    """

    def __init__(self, routes: Routes, encoder: Encoder) -> None:
        self._routes = routes
        self._encoder = encoder

    def answer(self, route: Route, response: Any, path: str, query: bytes, headers: Headers) -> Response:
        """Return the answer of a call that went well."""
        present: dict[str, str] = {}
        status = HTTPStatus.OK
        resource = getattr(response, route.response_body) if route.response_body else response
        fields = response.DESCRIPTOR.fields_by_name
        if isinstance(resource, Message):
            tag = self._tag(resource)
            if tag:
                present["etag"] = tag
                if route.method == "GET":
                    present["cache-control"] = "private, no-cache"
                    if is_known(tag, headers.getlist("if-none-match")):
                        return Response(None, HTTPStatus.NOT_MODIFIED, present)
            if "created" in fields and response.created:
                status = HTTPStatus.CREATED
                location = self._location(route, resource)
                if location:
                    present["location"] = location
        if "next_page_token" in fields and (token := response.next_page_token):
            kept = [pair for pair in parse_qsl(query.decode(), keep_blank_values=True) if pair[0] not in NOT_IN_LINKS]
            present["link"] = f'<{path}?{urlencode([*kept, ("pageToken", token)])}>; rel="next"'
        value = self._encoder.field(response, route.response_body)
        return Response(to_json(value), status, present, "application/json")

    def null(self, route: Route, problem: Problem) -> Response | None:
        """Return the answer that says that there is none, where a refused call means that; None: it is an error."""
        output = route.rpc.output_type
        absent = [f"{field.name.upper()}_NOT_FOUND" for field in output.fields if field.message_type]
        if not route.answers_null or problem.reason not in absent:
            return None
        value = self._encoder.field(GetMessageClass(output)(), route.response_body)
        return Response(to_json(value), HTTPStatus.OK, media_type="application/json")

    def _tag(self, resource: Any) -> str:
        return f'"{resource.sequence}"' if "sequence" in resource.DESCRIPTOR.fields_by_name else ""

    def _location(self, route: Route, resource: Any) -> str | None:
        """Return where the resource is read: {run_id} in a path is the `id` of a `run`."""
        values = {field.name: getattr(resource, field.name) for field in resource.DESCRIPTOR.fields}
        values[f"{route.response_body}_id"] = values.get("id")
        texts = {name: value for name, value in values.items() if isinstance(value, str) and value}
        return self._routes.location(route.response_body, texts, resource.DESCRIPTOR.full_name)


def is_known(tag: str, given: list[str]) -> bool:
    """Return whether one of the If-None-Match headers has the tag."""
    known = [one.strip().removeprefix("W/") for line in given for one in line.split(",")]
    return tag in known or "*" in known

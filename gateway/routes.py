"""The routes of RPCs, as their google.api.http annotations say them."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from http import HTTPStatus

from google.api import annotations_pb2, http_pb2
from google.protobuf.descriptor import MethodDescriptor, ServiceDescriptor

from gateway.problems import Problem
from gateway.template import Template


@dataclass(frozen=True)
class Route:
    """One way to call an RPC over HTTP."""

    method: str  # GET, POST, ...
    template: Template
    rpc: MethodDescriptor
    body: str = ""  # "*": the whole request; a field's name; "": the request has no body
    response_body: str = ""  # the field that is the answer; "": the whole response is

    @property
    def answers_null(self) -> bool:
        """Whether a resource that is not there is null, and no error: the newest of what there may be none of."""
        return self.template.text.endswith("/latest")


class Routes:
    """The routes of `services`. With `at_root`, those that begin with /api are there without it, too."""

    def __init__(self, services: Sequence[ServiceDescriptor], *, at_root: bool = False) -> None:
        self.all = [route for service in services for route in _routes_of(service)]
        served = [*self.all, *(_without_api(route) for route in self.all)] if at_root else self.all
        self._by_method: dict[str, list[Route]] = {}
        for route in served:
            self._by_method.setdefault(route.method, []).append(route)

    def find(self, method: str, raw_path: str) -> tuple[Route, dict[str, str]]:
        """Return the route of a request and the values in its path. Raises Problem: 404, 405."""
        try:
            for route in self._by_method.get(method, ()):
                values = route.template.match(raw_path)
                if values is not None:
                    return route, values
            allowed = [
                other for other in self._by_method if any(r.template.match(raw_path) for r in self._by_method[other])
            ]
        except UnicodeDecodeError:
            raise Problem(
                HTTPStatus.BAD_REQUEST, "VALIDATION_FAILED", "the path is not UTF-8, percent-encoded"
            ) from None
        if allowed:
            raise Problem.not_allowed(method, allowed)
        raise Problem(
            HTTPStatus.NOT_FOUND, "ROUTE_UNKNOWN", "there is nothing at this path; /openapi.json has the routes"
        )

    def location(self, resource: str, values: dict[str, str], message_type: str) -> str | None:
        """Return the path by which a resource can be read: of the GET route that answers with a `message_type` as its
        `resource`. None: there is no such route."""
        for route in self._by_method.get("GET", ()):
            if route.response_body == resource and not route.rpc.server_streaming:
                field = route.rpc.output_type.fields_by_name[resource]
                is_one = not field.is_repeated and field.message_type and field.message_type.full_name == message_type
                if is_one and set(route.template.variables) <= set(values):
                    return route.template.expand(values)
        return None


def _routes_of(service: ServiceDescriptor) -> Iterator[Route]:
    for rpc in service.methods:
        options = rpc.GetOptions()
        if options.HasExtension(annotations_pb2.http):
            rule: http_pb2.HttpRule = options.Extensions[annotations_pb2.http]
            for binding in (rule, *rule.additional_bindings):
                yield _route(rpc, binding, rule)


def _route(rpc: MethodDescriptor, binding: http_pb2.HttpRule, rule: http_pb2.HttpRule) -> Route:
    kind = binding.WhichOneof("pattern")
    if kind is None or kind == "custom":
        raise ValueError(f"{rpc.full_name} has a route without a method that is understood here")
    template = Template(getattr(binding, kind))
    for name in (*template.variables, *({binding.body} - {"", "*"})):
        if name not in rpc.input_type.fields_by_name:
            raise ValueError(f"{rpc.full_name} has a route with {name}, which {rpc.input_type.name} has not")
    response_body = binding.response_body or rule.response_body
    if response_body and response_body not in rpc.output_type.fields_by_name:
        raise ValueError(f"{rpc.full_name} answers with {response_body}, which {rpc.output_type.name} has not")
    return Route(kind.upper(), template, rpc, binding.body, response_body)


def _without_api(route: Route) -> Route:
    template = Template(route.template.text.removeprefix("/api"))
    return Route(route.method, template, route.rpc, route.body, route.response_body)

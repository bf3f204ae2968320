"""Messages of a stream as Server-Sent Events."""

from collections.abc import Sequence
from typing import Any, Final

from google.protobuf.descriptor import Descriptor, FieldDescriptor
from google.protobuf.message import Message

from gateway.encoder import Encoder, to_json
from gateway.problems import Problem
from gateway.routes import Route

HEARTBEAT: Final = b": heartbeat\n\n"  # a comment: it reaches no program, and keeps proxies from closing
RETRY: Final = b"retry: 1000\n\n"  # milliseconds until a client connects again


class EventFormat:
    """How the messages of one RPC become events. What their fields are called decides:

    - `kind` is the event's name, in lower case; a HEARTBEAT is a comment;
    - `position`, or else the `sequence` of the message that is the event's data, is its id;
    - the request's `after`, or `after_...`, is where a client resumes: its Last-Event-ID.
    """

    def __init__(self, route: Route, encoder: Encoder) -> None:
        self._encoder = encoder
        self._data = route.response_body
        self._kinds = _names(route.rpc.output_type.fields_by_name.get("kind"))
        self._id = _path_of_id(route.rpc.output_type, route.response_body)
        names = [name for name in route.rpc.input_type.fields_by_name if name == "after" or name.startswith("after_")]
        self._after = names[0] if names else ""

    def resume(self, request: Message, last_event_id: str) -> bool:
        """Let a request begin after the event `last_event_id`; return whether it does. Raises Problem."""
        if not last_event_id or not self._after:
            return False
        is_text = request.DESCRIPTOR.fields_by_name[self._after].cpp_type == FieldDescriptor.CPPTYPE_STRING
        try:
            setattr(request, self._after, last_event_id if is_text else int(last_event_id))
        except ValueError:
            raise Problem.invalid("Last-Event-ID is not the id of an event of this stream", "Last-Event-ID") from None
        return True

    def restart(self, request: Message) -> None:
        """Let a request begin as one of a client that has nothing."""
        request.ClearField(self._after)

    def frame(self, message: Message) -> bytes:
        """Return the event of a message."""
        kind = self._kinds.get(getattr(message, "kind", 0), "")
        if kind == "heartbeat":
            return HEARTBEAT
        lines = []
        position: Any = message
        for name in self._id:
            position = getattr(position, name)
        if self._id and position:
            lines.append(b"id: %b\n" % str(position).encode())
        if kind:
            lines.append(b"event: %b\n" % kind.encode())
        lines.append(b"data: %b\n\n" % to_json(self._encoder.field(message, self._data)))
        return b"".join(lines)


def end_of(problem: Problem, request_id: str) -> bytes:
    """Return the event that says why a stream ends early. It has no id: the client resumes where it was."""
    return b"event: problem\ndata: %b\n\n" % bytes(problem.response(request_id).body)


def _names(kind: FieldDescriptor | None) -> dict[int, str]:
    if kind is None or kind.enum_type is None:
        return {}
    return {number: value.name.lower() for number, value in kind.enum_type.values_by_number.items() if number}


def _path_of_id(output: Descriptor, data: str) -> Sequence[str]:
    if "position" in output.fields_by_name:
        return ("position",)
    for path in ((data, "sequence"), ("sequence",)):
        descriptor: Descriptor | None = output
        for name in path[:-1]:
            field = descriptor.fields_by_name.get(name) if descriptor else None
            descriptor = field.message_type if field else None
        if descriptor and path[-1] in descriptor.fields_by_name:
            return path
    return ()

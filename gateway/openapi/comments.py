"""The comments of the protos, which only a descriptor set has."""

from collections.abc import Iterator, Sequence

from google.protobuf.descriptor_pb2 import (
    DescriptorProto,
    EnumDescriptorProto,
    FileDescriptorProto,
    FileDescriptorSet,
    ServiceDescriptorProto,
)

# Numbers of fields in descriptor.proto: the path of a location is made of them.
MESSAGES, ENUMS, SERVICES = 4, 5, 6  # of a file
NESTED, NESTED_ENUMS, FIELDS = 3, 4, 2  # of a message
METHODS = VALUES = 2  # of a service, of an enum

Path = tuple[int, ...]


class Comments:
    """What is written above the messages, fields, enums, services and RPCs of a descriptor set, by their full names."""

    def __init__(self, descriptor_set: bytes) -> None:
        self._texts: dict[str, str] = {}
        for file in FileDescriptorSet.FromString(descriptor_set).file:
            written = {tuple(one.path): one.leading_comments for one in file.source_code_info.location}
            for name, path in _names(file):
                if text := written.get(path):
                    self._texts[name] = "\n".join(line.strip() for line in text.strip().splitlines())

    def of(self, name: str) -> str:
        """Return the comment of what has the full `name`, or ""."""
        return self._texts.get(name, "")


def _names(file: FileDescriptorProto) -> Iterator[tuple[str, Path]]:
    yield from _of_messages(file.message_type, file.package, (MESSAGES,))
    yield from _of_enums(file.enum_type, file.package, (ENUMS,))
    yield from _of_services(file.service, file.package)


def _of_messages(messages: Sequence[DescriptorProto], parent: str, path: Path) -> Iterator[tuple[str, Path]]:
    for number, message in enumerate(messages):
        name, here = f"{parent}.{message.name}", (*path, number)
        yield name, here
        for position, field in enumerate(message.field):
            yield f"{name}.{field.name}", (*here, FIELDS, position)
        yield from _of_messages(message.nested_type, name, (*here, NESTED))
        yield from _of_enums(message.enum_type, name, (*here, NESTED_ENUMS))


def _of_enums(enums: Sequence[EnumDescriptorProto], parent: str, path: Path) -> Iterator[tuple[str, Path]]:
    for number, enum in enumerate(enums):
        name, here = f"{parent}.{enum.name}", (*path, number)
        yield name, here
        for position, value in enumerate(enum.value):
            yield f"{name}.{value.name}", (*here, VALUES, position)


def _of_services(services: Sequence[ServiceDescriptorProto], parent: str) -> Iterator[tuple[str, Path]]:
    for number, service in enumerate(services):
        name, here = f"{parent}.{service.name}", (SERVICES, number)
        yield name, here
        for position, method in enumerate(service.method):
            yield f"{name}.{method.name}", (*here, METHODS, position)

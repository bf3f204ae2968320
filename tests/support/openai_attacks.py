"""What a hostile provider answers: whole HTTP responses that mean harm to who reads them."""

import zlib
from collections.abc import Callable
from http import HTTPStatus

MB = 1024 * 1024
UNPACKED = 1024  # MB of a bomb
RAW_DEFLATE = -15


def _response(status: int, body: bytes, *headers: str) -> bytes:
    head = "\r\n".join([f"HTTP/1.1 {status} {HTTPStatus(status).phrase}", "content-type: application/json", *headers])
    return head.encode() + b"\r\n\r\n" + body


def _packed(status: int, body: bytes, encoding: str) -> bytes:
    return _response(status, body, f"content-length: {len(body)}", f"content-encoding: {encoding}")


def _bomb() -> bytes:
    """A GB of blanks as 1 MB of deflate. Its check sum is wrong, which shows when it has been unpacked."""
    packer = zlib.compressobj(9, zlib.DEFLATED, RAW_DEFLATE)
    block = packer.compress(b" " * MB) + packer.flush(zlib.Z_FULL_FLUSH)
    return block * UNPACKED + packer.flush()


def gzip_bomb(status: int, _: bytes) -> bytes:
    return _packed(status, b"\x1f\x8b\x08\0\0\0\0\0\2\xff" + _bomb() + bytes(8), "gzip")


def deflate_bomb(status: int, _: bytes) -> bytes:
    return _packed(status, b"\x78\xda" + _bomb() + bytes(4), "deflate")


def nested_bomb(status: int, _: bytes) -> bytes:
    inner = b"\x78\xda" + _bomb() + bytes(4)
    return _packed(status, zlib.compress(inner, 9), "deflate, deflate")


def long_answer(status: int, _: bytes) -> bytes:
    return _response(status, b" " * 32 * MB, f"content-length: {32 * MB}")


def chunked(status: int, _: bytes) -> bytes:
    return _response(
        status, (b"10000\r\n" + b" " * 0x10000 + b"\r\n") * 512 + b"0\r\n\r\n", "transfer-encoding: chunked"
    )


def tiny_chunks(status: int, _: bytes) -> bytes:
    return _response(status, b"1\r\n \r\n" * MB + b"0\r\n\r\n", "transfer-encoding: chunked")


def _said(status: int, body: str) -> bytes:
    return _response(status, body.encode(), f"content-length: {len(body.encode())}")


def many_choices(status: int, _: bytes) -> bytes:
    """4 MB that are 280,000 objects."""
    return _said(status, '{"choices": [' + '{"message":{}},' * (4 * MB // 15 - 10) + "{}]}")


def many_mistakes(status: int, _: bytes) -> bytes:
    return _said(status, '{"choices": [' + "[]," * (4 * MB // 3 - 10) + "[]]}")


def many_items(status: int, _: bytes) -> bytes:
    """A good answer but for their number, with every comma escaped."""
    item = r"{\"id\":\"00000\"\u002c\"text\":\"\"}"
    content = r"{\"items\":[" + (item + r"\u002c") * (4 * MB // 55) + item + "]}"
    return _said(status, '{"choices": [{"message": {"content": "' + content + '"}}]}')


def headers(status: int, _: bytes) -> bytes:
    return _response(status, b"", *["x-flood: " + "y" * 1_000] * 10_000)


def interim(status: int, body: bytes) -> bytes:
    """A good answer behind a hundred thousand announcements of it."""
    return b"HTTP/1.1 103 Early Hints\r\nlink: </x>\r\n\r\n" * 100_000 + _response(
        status, body, f"content-length: {len(body)}"
    )


# What is too long to be read at all
TOO_LONG = frozenset({"gzip_bomb", "deflate_bomb", "nested_bomb", "long_answer", "chunked", "tiny_chunks"})
# By name: of the status, and of the body of a good answer, the response.
ATTACKS: dict[str, Callable[[int, bytes], bytes]] = {
    attack.__name__: attack
    for attack in (
        *(gzip_bomb, deflate_bomb, nested_bomb, long_answer, chunked, tiny_chunks),
        *(many_choices, many_mistakes, many_items),
        *(headers, interim),
    )
}

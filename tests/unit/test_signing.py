"""What a signature of a broker message covers."""

import hashlib
import hmac

import pytest

from servicekit.broker import SIGNATURE_HEADER, VERSION_HEADER, MessageSigner

OLD, NEW = "an older secret, of 32 characters", "a newer secret, of 32 characters"


def signature(signer: MessageSigner, queue: str = "q", version: int = 1, body: bytes = b"body") -> object:
    headers = signer.headers(queue, version, body)
    assert headers[VERSION_HEADER] == version
    return headers[SIGNATURE_HEADER]


def test_a_signature_verifies_what_it_was_made_for_and_nothing_else() -> None:
    signer = MessageSigner([NEW])
    good = signature(signer)
    assert signer.verifies(good, "q", 1, b"body")
    for other in (("p", 1, b"body"), ("q", 2, b"body"), ("q", 1, b"bodY"), ("q", 1, b"")):
        assert not signer.verifies(good, *other)


def test_no_two_messages_are_signed_as_the_same_bytes() -> None:
    signer = MessageSigner([NEW])
    alike = [("q", 1, b"1:x"), ("q:1", 1, b"x"), ("q", 11, b":x"), ("q:1:1", 1, b"x"), ("q", 1, b"1:1:x")]
    assert len({signature(signer, *one) for one in alike}) == len(alike)


def test_the_first_secret_signs_and_each_verifies() -> None:
    rotating = MessageSigner([NEW, OLD])
    assert signature(rotating) == signature(MessageSigner([NEW])) != signature(MessageSigner([OLD]))
    for secret in (OLD, NEW):
        assert rotating.verifies(signature(MessageSigner([secret])), "q", 1, b"body")
    assert not MessageSigner([OLD]).verifies(signature(rotating), "q", 1, b"body")


@pytest.mark.parametrize("odd", [None, "", 7, b"x", "\ud800", "é" * 64, "0" * 64, ["x"], {}], ids=ascii)
def test_nothing_that_can_stand_in_a_header_verifies_or_raises(odd: object) -> None:
    assert not MessageSigner([NEW]).verifies(odd, "q", 1, b"body")


def test_without_a_secret_nothing_is_signed_and_everything_verifies() -> None:
    nobody = MessageSigner(())
    assert nobody.headers("q", 1, b"body") == {VERSION_HEADER: 1}
    assert nobody.verifies(None, "q", 1, b"body")


def test_the_key_is_not_the_secret_itself() -> None:

    plain = hmac.new(NEW.encode(), b"1:q:1:body", hashlib.sha256).hexdigest()
    assert signature(MessageSigner([NEW])) != plain

import hashlib
import hmac

import pytest
from hypothesis import given
from hypothesis import strategies as st

from servicekit.broker import SIGNATURE_HEADER, VERSION_HEADER, MessageSigner

OLD, NEW = "the secret that goes, of 32 or more", "the secret that comes, of 32 or more"


def signature(signer: MessageSigner, queue: str, version: int, body: bytes) -> object:
    headers = signer.headers(queue, version, body)
    assert headers.keys() == {VERSION_HEADER, SIGNATURE_HEADER}
    assert headers[VERSION_HEADER] == version
    return headers[SIGNATURE_HEADER]


@given(st.text(max_size=20), st.integers(1, 1_000), st.binary(max_size=200))
def test_what_was_signed_verifies(queue: str, version: int, body: bytes) -> None:
    signer = MessageSigner([NEW])
    assert signer.verifies(signature(signer, queue, version, body), queue, version, body)


@given(*[st.tuples(st.text("0123456789:q", max_size=5), st.integers(1, 99), st.binary(max_size=5))] * 2)
def test_no_other_message_has_the_same_signature(one: tuple[str, int, bytes], other: tuple[str, int, bytes]) -> None:
    signer = MessageSigner([NEW])
    assert signer.verifies(signature(signer, *one), *other) is (one == other)


@pytest.mark.parametrize("odd", [None, "", "0" * 64, b"0" * 64, 7, "\u00e4" * 64, "\ud800", ["x"], {}, True], ids=ascii)
def test_nothing_else_that_can_stand_in_a_header_verifies_or_raises(odd: object) -> None:
    assert not MessageSigner([NEW]).verifies(odd, "q", 1, b"body")


def test_the_first_secret_signs_and_each_verifies() -> None:
    before, during, after = MessageSigner([OLD]), MessageSigner([NEW, OLD]), MessageSigner([NEW])
    old, new = signature(before, "q", 1, b"body"), signature(during, "q", 1, b"body")
    assert new == signature(after, "q", 1, b"body") != old
    assert during.verifies(old, "q", 1, b"body")
    assert during.verifies(new, "q", 1, b"body")
    assert not after.verifies(old, "q", 1, b"body")


def test_without_a_secret_nothing_is_signed_and_everything_verifies() -> None:
    nobody = MessageSigner(())
    assert nobody.headers("q", 1, b"body") == {VERSION_HEADER: 1}
    assert nobody.verifies(None, "q", 1, b"body")


def test_the_key_is_not_the_secret_itself() -> None:
    plain = hmac.new(NEW.encode(), b"1:q1:body", hashlib.sha256).hexdigest()
    assert signature(MessageSigner([NEW]), "q", 1, b"body") != plain

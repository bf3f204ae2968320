import pytest
from hypothesis import given
from hypothesis import strategies as st

from servicekit.broker import MessageSigner
from servicekit.broker.signing import signer_of

OLD, NEW = "the secret that goes, of 32 or more", "the secret that comes, of 32 or more"


@given(st.text(max_size=20), st.integers(1, 1_000), st.binary(max_size=200))
def test_what_was_signed_is_genuine(queue: str, version: int, body: bytes) -> None:
    signer = MessageSigner([NEW])
    assert signer.is_genuine(signer.sign(queue, version, body), queue, version, body)


@given(*[st.tuples(st.text("0123456789:q", max_size=5), st.integers(1, 99), st.binary(max_size=5))] * 2)
def test_no_other_message_has_the_same_signature(one: tuple[str, int, bytes], other: tuple[str, int, bytes]) -> None:
    signer = MessageSigner([NEW])
    assert signer.is_genuine(signer.sign(*one), *other) is (one == other)


@pytest.mark.parametrize("signature", [None, "", "0" * 64, b"0" * 64, 7, "\u00e4" * 64, ["x"], {}, True])
def test_what_is_no_signature_is_not_genuine(signature: object) -> None:
    assert not MessageSigner([NEW]).is_genuine(signature, "q", 1, b"body")


def test_the_first_secret_signs_and_each_verifies() -> None:
    before, during, after = MessageSigner([OLD]), MessageSigner([NEW, OLD]), MessageSigner([NEW])
    old, new = before.sign("q", 1, b"body"), during.sign("q", 1, b"body")
    assert new == after.sign("q", 1, b"body") != old
    assert during.is_genuine(old, "q", 1, b"body")
    assert during.is_genuine(new, "q", 1, b"body")
    assert not after.is_genuine(old, "q", 1, b"body")


def test_without_a_secret_there_is_no_signer() -> None:
    assert signer_of(()) is None
    assert isinstance(signer_of((NEW,)), MessageSigner)

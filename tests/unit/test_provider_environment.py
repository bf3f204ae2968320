"""What is wrong with the environment of the AI provider's HTTP client, in a line that names the variable."""

from pathlib import Path

import pytest
from pydantic import SecretStr

from executor_service.ai.factory import build_provider

VARIABLES = ("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "NO_PROXY", "SSL_CERT_FILE", "SSL_CERT_DIR")


@pytest.fixture(autouse=True)
def _environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in VARIABLES:
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.lower(), raising=False)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("ALL_PROXY", "foo://u:hidden-password@h:1"),
        ("https_proxy", "http://u:hidden-password@[::1"),
        ("HTTP_PROXY", "http://u:hidden-password@h:99999"),
        ("HTTPS_PROXY", "http://u:hidden-password@h:port"),
        ("HTTPS_PROXY", "http://"),
        ("SSL_CERT_FILE", "/nowhere/ca.pem"),
        ("SSL_CERT_FILE", __file__),
        ("SSL_CERT_DIR", "/nowhere"),
    ],
)
def test_a_bad_variable_is_named(name: str, value: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(name, value)
    with pytest.raises(ValueError, match=name) as refusal:
        build_provider(provider="openai", api_key=SecretStr("key"))
    assert "hidden-password" not in str(refusal.value)
    assert "\n" not in str(refusal.value)


@pytest.mark.parametrize("value", [f"{scheme}127.0.0.1:1" for scheme in ("socks5://", "socks5h://", "http://", "")])
async def test_a_proxy_of_any_kind_is_taken(value: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ALL_PROXY", value)
    await build_provider(provider="openai", api_key=SecretStr("key")).close()


def test_a_bad_variable_is_of_no_concern_without_the_provider(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("SSL_CERT_FILE", str(tmp_path / "none"))
    build_provider(provider="offline")

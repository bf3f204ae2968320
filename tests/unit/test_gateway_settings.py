"""The gateway's settings: it has no secret to read, and says what is wrong with the rest."""

import pytest
from pydantic import SecretStr

from gateway.settings import GatewaySettings
from servicekit.config import settings


def load(monkeypatch: pytest.MonkeyPatch, **environment: str) -> GatewaySettings:
    for name in ("GATEWAY_LISTEN", "GATEWAY_CORS_ORIGINS", "RUNS_TARGET", "EXECUTOR_TARGET", "TLS_CERT_FILE"):
        monkeypatch.delenv(name, raising=False)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    return settings.load(GatewaySettings)


def test_the_defaults_need_nothing_and_no_field_is_a_secret(monkeypatch: pytest.MonkeyPatch) -> None:
    loaded = load(monkeypatch)
    assert (loaded.listen, loaded.runs_target, loaded.executor_target) == (
        "127.0.0.1:8080", "127.0.0.1:50051", "127.0.0.1:50052"
    )  # fmt: skip
    assert (loaded.origins, loaded.gateway_routes_at_root) == ((), False)
    assert not [name for name, field in GatewaySettings.model_fields.items() if SecretStr in (field.annotation, None)]
    assert not {"broker_url", "database_url", "auth_jwt_secret"} & GatewaySettings.model_fields.keys()


def test_origins_are_a_list_with_commas(monkeypatch: pytest.MonkeyPatch) -> None:
    loaded = load(monkeypatch, GATEWAY_CORS_ORIGINS="https://shop.example, http://localhost:3000,http://[::1]:8080")
    assert loaded.origins == ("https://shop.example", "http://localhost:3000", "http://[::1]:8080")


@pytest.mark.parametrize("origin", ["shop.example", "https://shop.example/", "https://*.example", "null", "HTTPS://A"])
def test_what_is_no_origin_stops_the_start(
    origin: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit):
        load(monkeypatch, GATEWAY_CORS_ORIGINS=origin)
    assert "GATEWAY_CORS_ORIGINS: expected origins" in capsys.readouterr().err

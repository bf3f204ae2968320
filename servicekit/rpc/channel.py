"""The gRPC channel to a service."""

import json

import grpc

from servicekit.config.settings import ListenerSettings
from servicekit.rpc.credentials import TlsFiles
from servicekit.rpc.options import MAX_RESPONSE_BYTES, ping_timeout
from servicekit.rpc.renewed_channel import RenewedChannel

PING_INTERVAL = 5  # seconds
PING_TIMEOUT = 5  # seconds

_SERVICE_CONFIG = json.dumps(
    {
        # Calls go to every replica that the target resolves to, unless its health check says that it is stopping. With
        # one fixed replica, all calls would wait while that one hangs.
        "loadBalancingConfig": [{"round_robin": {}}],
        "healthCheckConfig": {"serviceName": ""},
        "methodConfig": [
            {
                "name": [{}],
                "retryPolicy": {
                    "maxAttempts": 4,
                    "initialBackoff": "0.1s",
                    "maxBackoff": "1s",
                    "backoffMultiplier": 2,
                    "retryableStatusCodes": ["UNAVAILABLE"],
                },
            }
        ],
    }
)


def open_channel(target: str, settings: ListenerSettings, *, own_connection: bool = False) -> grpc.aio.Channel:
    """Return a channel to HOST:PORT. It uses TLS when this service has a certificate or TLS_CA_FILE is set, and sends
    this service's certificate when the server asks for one (mutual TLS). Files that are replaced count for new calls.

    Channels to one target share a connection, except those with an `own_connection`.
    """
    options = (
        ("grpc.service_config", _SERVICE_CONFIG),
        ("grpc.enable_http_proxy", 0),  # http_proxy is for the AI provider; no proxy is between the two services
        ("grpc.max_receive_message_length", MAX_RESPONSE_BYTES),
        # A replica that hangs gets no more calls after interval and timeout. Without the 0, gRPC would ping an idle
        # connection once a minute only.
        ("grpc.keepalive_time_ms", PING_INTERVAL * 1000),
        ("grpc.http2.max_pings_without_data", 0),
        *ping_timeout(PING_TIMEOUT),
        # The other service restarts within seconds, and runs wait for its answer.
        ("grpc.initial_reconnect_backoff_ms", 200),
        # What an attempt may take: a busy or distant service shakes hands slowly, and must be reached all the same.
        ("grpc.min_reconnect_backoff_ms", 2_000),
        ("grpc.max_reconnect_backoff_ms", 500),
        ("grpc.use_local_subchannel_pool", int(own_connection)),
    )
    files = TlsFiles(settings)

    def connect() -> grpc.aio.Channel:
        credentials = files.of_channel()
        assert credentials
        return grpc.aio.secure_channel(target, credentials, options=options)

    if files.of_channel() is None:
        return grpc.aio.insecure_channel(target, options=options)
    return RenewedChannel(connect, files)


def channel_credentials(settings: ListenerSettings) -> grpc.ChannelCredentials | None:
    """Return what a connection to a service needs for TLS; None: it uses none."""
    return TlsFiles(settings).of_channel()

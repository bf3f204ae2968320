"""A client that does what gRPC can do by itself, and nothing of ours: all replicas in turn, and its own retries."""

import json

from devstack.services import Service

# gRPC's standard retry policy, as its documentation shows it.
RETRIES = json.dumps(
    {
        "loadBalancingConfig": [{"round_robin": {}}],
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
OPTIONS = (
    ("grpc.service_config", RETRIES),
    ("grpc.initial_reconnect_backoff_ms", 200),
    ("grpc.min_reconnect_backoff_ms", 2_000),  # that an attempt may take: a busy service shakes hands slowly
    ("grpc.max_reconnect_backoff_ms", 1_000),
)


def all_of(services: list[Service]) -> str:
    """Return a target for all the replicas."""
    return f"ipv4:{','.join(service.target for service in services)}"

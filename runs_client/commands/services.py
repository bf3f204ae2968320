"""The options that say where the services are: the same ones for every command that calls them."""

import functools
import inspect
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import typer

from runs_client.commands.options import without_controls
from runs_client.endpoints import ServiceOptions
from runs_client.targets import require_target


def _target(value: str | None) -> str | None:
    if value is not None:
        without_controls(value)
        try:
            require_target(value)
        except ValueError as error:
            raise typer.BadParameter(str(error)) from error
    return value


def service_options(
    *,
    target: Annotated[
        str | None,
        typer.Option(
            metavar="HOST:PORT",
            help="Where runs-service answers. [default: the local stack, or 127.0.0.1:50051]",
            callback=_target,
        ),
    ] = None,
    executor_target: Annotated[
        str | None,
        typer.Option(
            metavar="HOST:PORT",
            help="Where executor-service answers. [default: the local stack, or 127.0.0.1:50052]",
            callback=_target,
        ),
    ] = None,
    token: Annotated[
        str | None,
        typer.Option(
            metavar="JWT",
            help="Who you are. [default: PLAYBOOK_RUNS_TOKEN, or an OWNER token for the local stack; with --data-dir "
            "that]",
        ),
    ] = None,
    data_dir: Annotated[
        Path | None, typer.Option(metavar="D", help="The folder of a local stack: gives addresses and a token.")
    ] = None,
    ca_file: Annotated[Path | None, typer.Option(metavar="PEM", help="Use TLS, and trust these certificates.")] = None,
    cert_file: Annotated[Path | None, typer.Option(metavar="PEM", help="Your own certificate, for mutual TLS.")] = None,
    key_file: Annotated[Path | None, typer.Option(metavar="PEM", help="The key of --cert-file.")] = None,
) -> ServiceOptions:
    """Return what a person said about the services."""
    return ServiceOptions(target, executor_target, token, data_dir, ca_file, cert_file, key_file)


def with_service_options(command: Callable[..., None]) -> Callable[..., None]:
    """Give a command the options of `service_options` in the place of its parameter `services`."""
    options = inspect.signature(service_options).parameters
    own = [found for name, found in inspect.signature(command).parameters.items() if name != "services"]

    @functools.wraps(command)
    def with_options(**given: Any) -> None:
        stated = {name: given.pop(name) for name in options}
        command(services=service_options(**stated), **given)

    # Typer reads both.
    parameters = [*own, *options.values()]
    with_options.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
    with_options.__annotations__ = {found.name: found.annotation for found in parameters}
    return with_options

"""The playbook-runs command."""

import sys
import traceback

import typer

import servicekit.rpc.grpc_log  # noqa: F401  # before all that imports gRPC
from runs_client.errors import ServiceCallError
from runs_client.failures import CommandError, explain
from runs_client.shopify import CatalogFileError
from servicekit.telemetry.printable import printable_lines


def build_app() -> typer.Typer:
    """Return the command with its sub-commands."""
    from devstack.commands import register
    from runs_client.commands import (
        cancel,
        catalog,
        create,
        demo,
        drafts,
        estimate,
        history,
        items,
        purge,
        retry,
        usage,
        watch,
    )

    app = typer.Typer(
        name="playbook-runs",
        help="Automation playbooks as runs: try them on one machine, create and watch them, move catalogs in and out.",
        no_args_is_help=True,
        add_completion=False,
        pretty_exceptions_enable=False,
        rich_markup_mode=None,  # it would swallow the brackets of "[default: ...]"
    )
    app.command()(demo.demo)
    register(app)
    app.command("import")(catalog.import_)
    app.command()(catalog.export)
    app.command()(estimate.estimate)
    app.command()(create.create)
    app.command()(history.get)
    app.command("list")(history.list_)
    app.command()(watch.watch)
    app.command()(drafts.draft)
    app.command()(items.items)
    app.command()(cancel.cancel)
    app.command()(retry.retry)
    app.command()(usage.usage)
    app.command()(purge.purge)
    return app


def main() -> None:
    """Run the command; end with 0, 1 for what went wrong (one line says what), or 2 for wrong usage."""
    try:
        build_app()()
    except ServiceCallError as error:
        fail(explain(error))
    except (CommandError, CatalogFileError) as error:
        fail(str(error))
    except UnicodeEncodeError as error:
        if error.encoding != "utf-8":
            raise  # the terminal's, which is no fault of an argument
        strange = error.object[error.start : error.end]  # not all of it: it may be a secret
        fail(f"an argument has {strange!a}, which is no text: arguments are in UTF-8")
    except Exception as error:
        # An unexpected error may quote a service, and Python would write its control characters as they are.
        sys.exit(printable_lines("".join(traceback.format_exception(error)).rstrip()))


def fail(message: str) -> None:
    """End the process with exit code 1 and one line on standard error; lines that follow are marked as its own."""
    sys.stdout.flush()
    sys.exit(f"error: {printable_lines(message)}")


if __name__ == "__main__":
    main()

"""`playbook-runs demo`."""

from pathlib import Path
from typing import Annotated

import typer

from devstack.datadir import default_demo_dir


def demo(
    catalog: Annotated[
        Path | None, typer.Option(metavar="FILE.csv", help="A Shopify product export. [default: the example shop's]")
    ] = None,
    data_dir: Annotated[
        Path | None,
        typer.Option(
            metavar="D",
            help=f"Where its stack is kept: a folder without one. [default: {default_demo_dir()}, made anew each time]",
        ),
    ] = None,
) -> None:
    """Fill in a shop's missing SEO titles and descriptions, start to end, on a stack of its own.

    Starts everything in a folder of its own, imports the catalog, and for both playbooks previews, drafts and applies,
    with live progress. Writes the improved catalog as one new CSV file into the working directory. Texts come from a
    template writer, or from OpenAI when OPENAI_API_KEY is set. The last line is the command that shows in a browser
    what was made.

    Example: playbook-runs demo --catalog products_export.csv
    """
    from runs_client.demo import EXAMPLE, run_demo

    run_demo(catalog or EXAMPLE, data_dir)

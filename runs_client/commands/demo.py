"""`playbook-runs demo`."""

from pathlib import Path
from typing import Annotated

import typer


def demo(
    catalog: Annotated[
        Path | None, typer.Option(metavar="FILE.csv", help="A Shopify product export. [default: the example shop's]")
    ] = None,
) -> None:
    """Fill in a shop's missing SEO titles and descriptions, start to end, on a stack of its own.

    Starts everything in a temporary folder, imports the catalog, and for both playbooks previews, drafts and applies,
    with live progress. Writes the improved catalog as one new CSV file into the working directory. Texts come from a
    template writer, or from OpenAI when OPENAI_API_KEY is set.

    Example: playbook-runs demo --catalog products_export.csv
    """
    from runs_client.demo import EXAMPLE, run_demo

    run_demo(catalog or EXAMPLE)

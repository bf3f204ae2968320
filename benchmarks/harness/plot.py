"""One plot for each claim: the ratio of each round with its limits, and the absolute values."""

from collections.abc import Sequence
from pathlib import Path
from statistics import median
from typing import Any

from benchmarks.harness.report import file_name

OURS, LIMIT, OTHERS, GREY = "#0b6e4f", "#b3261e", "#5b7c99", "#8a8a8a"


def plot(found: dict[str, Any], folder: Path) -> Path:
    """Draw a report as FOLDER/ID.png and return that path. Needs matplotlib."""
    import matplotlib as mpl

    mpl.use("Agg")
    import matplotlib.pyplot as plt

    units = list(dict.fromkeys(absolute["unit"] for absolute in found["absolute"]))
    tallest = max([len(found["figures"]), *(sum(a["unit"] == unit for a in found["absolute"]) for unit in units)])
    figure, axes = plt.subplots(
        1,
        1 + len(units),
        figsize=(5.2 + 5.0 * len(units), 1.6 + 0.55 * max(3, tallest)),
        squeeze=False,
        layout="constrained",
    )
    _ratios(axes[0][0], found["figures"])
    for axis, unit in zip(axes[0][1:], units, strict=True):
        _absolutes(axis, unit, [absolute for absolute in found["absolute"] if absolute["unit"] == unit])
    figure.suptitle(f"{found['id']}: {found['title']}", fontsize=12, fontweight="bold")
    machine = found["machine"]
    figure.supxlabel(
        f"{machine['cpu']}, {machine['cores']} cores, {machine['memory_gib']} GiB; "
        f"commit {found['versions']['playbook-runs']}, {found['date'][:10]}",
        fontsize=7,
        color=GREY,
    )
    folder.mkdir(parents=True, exist_ok=True)
    file = folder / f"{file_name(found)}.png"
    figure.savefig(file, dpi=110)
    plt.close(figure)
    return file


def _ratios(axis: Any, figures: Sequence[dict[str, Any]]) -> None:
    """Each figure: its rounds as dots, their median as a bar, what must be reached and what is beyond as lines."""
    for place, figure in enumerate(figures):
        axis.barh(place, figure["median"], height=0.5, color=OURS, alpha=0.85)
        axis.plot(figure["rounds"], [place] * len(figure["rounds"]), "o", color="black", markersize=3, alpha=0.6)
        for name, style in (("must", "-"), ("beyond", ":")):
            if figure[name] is not None:
                axis.plot([figure[name]] * 2, [place - 0.4, place + 0.4], style, color=LIMIT, linewidth=2)
        axis.annotate(f" {figure['median']:.2f}", (figure["median"], place), va="bottom", fontsize=9, fontweight="bold")
    axis.set_yticks(range(len(figures)), [_wrapped(figure["name"]) for figure in figures], fontsize=8)
    axis.set_ylim(len(figures) - 0.4, -0.6)
    axis.set_xlim(left=0)
    axis.set_xlabel("ratio (line: must, dots: beyond)", fontsize=8)
    _plain(axis)


def _absolutes(axis: Any, unit: str, absolutes: Sequence[dict[str, Any]]) -> None:
    """The median of each, with a line from the smallest to the largest."""
    for place, absolute in enumerate(absolutes):
        middle = median(absolute["rounds"])
        axis.barh(place, middle, height=0.5, color=OURS if place == 0 else OTHERS, alpha=0.85)
        axis.plot([min(absolute["rounds"]), max(absolute["rounds"])], [place] * 2, color="black", linewidth=1)
        axis.annotate(f" {middle:,.4g}", (middle, place), va="bottom", fontsize=8)
    axis.set_yticks(range(len(absolutes)), [_wrapped(absolute["name"]) for absolute in absolutes], fontsize=8)
    axis.set_ylim(len(absolutes) - 0.4, -0.6)
    axis.set_xlim(left=0)
    axis.set_xlabel(unit, fontsize=8)
    _plain(axis)


def _plain(axis: Any) -> None:
    axis.spines[["top", "right"]].set_visible(False)
    axis.tick_params(axis="x", labelsize=8)
    axis.margins(x=0.18)


def _wrapped(text: str, width: int = 24) -> str:
    import textwrap

    return "\n".join(textwrap.wrap(text, width))

"""The comparison as a picture: a panel for each scenario, a bar for each peer, gnet's in its own colour."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from loadtests.compare.report import TRANSPORTS
from loadtests.compare.rounds import Measured
from loadtests.compare.scenarios import SCENARIOS
from loadtests.measuring.peers import PEERS

OURS, OURS_TOO, OTHERS, NATIVE = "#d1495b", "#edabb3", "#8d99ae", "#c8cfdb"
COLOURS = {"gnet": OURS, "gnet-lines": OURS_TOO, "gnet-read_line": OURS_TOO, "gnet-pure": OURS_TOO}
NOT_PYTHON = ("go", "nim", "redis")
LEGEND = {"gnet": OURS, "gnet without its server": OURS_TOO, "other Python": OTHERS, "not Python": NATIVE}
LEGEND_FROM = 8  # peers; the names of fewer say enough
BAR_INCHES, PANEL_INCHES, WIDTH_INCHES = 0.21, 0.75, 7.0


class NoPlot(Exception):
    """matplotlib is not installed."""


def draw(results: Sequence[Measured], file: Path, caption: str) -> None:
    """Write the PNG; raises NoPlot."""
    try:
        import matplotlib
    except ImportError:
        raise NoPlot("no plot: matplotlib is not installed (the extra `bench`)") from None
    matplotlib.use("agg")
    from matplotlib import pyplot
    from matplotlib.patches import Patch

    transports = [name for name in TRANSPORTS if any(one.transport == name for one in results)]
    names = [one.name for one in SCENARIOS if any(one.name == each.scenario.name for each in results)]
    panels = {(one.scenario.name, one.transport): one for one in results}
    peers = [peer for peer in PEERS if any(peer in one.samples for one in results)]
    figure, axes = pyplot.subplots(
        len(names),
        len(transports),
        squeeze=False,
        figsize=(
            WIDTH_INCHES * len(transports),
            len(names) * (PANEL_INCHES + BAR_INCHES * len(peers)) + 1,
        ),
        layout="constrained",
    )
    for row, name in enumerate(names):
        for column, transport in enumerate(transports):
            measured = panels.get((name, transport))
            if measured is None:
                axes[row][column].set_axis_off()
            else:
                _panel(axes[row][column], measured)
    title = "CPU time of the server process per request, memory per idle connection: less is better"
    figure.suptitle(title, fontsize=6.5 + 2.5 * len(transports), weight="bold")
    patches = [Patch(color=colour, label=label) for label, colour in LEGEND.items()]
    if len(peers) >= LEGEND_FROM:  # the shortest bars are on top: there is room beside them
        first = next(one for row in axes for one in row if one.axison)
        first.legend(handles=patches, loc="upper right", fontsize=8, frameon=False)
    figure.supxlabel(caption, fontsize=7.5, color="#666666", wrap=True)
    file.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(file, dpi=100)
    pyplot.close(figure)


def _panel(axes: Any, measured: Measured) -> None:
    """The best on top; a line from the least to the most of the rounds."""
    values = {peer: [one.value for one in taken] for peer, taken in measured.samples.items() if taken}
    order = sorted(values, key=lambda peer: statistics.median(values[peer]), reverse=True)
    medians = [statistics.median(values[peer]) for peer in order]
    colours = [COLOURS.get(peer, NATIVE if peer in NOT_PYTHON else OTHERS) for peer in order]
    axes.barh(range(len(order)), medians, color=colours, height=0.78)
    for at, peer in enumerate(order):
        axes.plot([min(values[peer]), max(values[peer])], [at, at], color="#333333", linewidth=0.9)
        end = max(values[peer])
        weight = "bold" if peer == "gnet" else "normal"
        text = f" {medians[at]:,.{measured.scenario.digits}f}"
        axes.text(end, at, text, va="center", fontsize=8, weight=weight)
    axes.set_yticks(range(len(order)), [PEERS[peer].title for peer in order], fontsize=8)
    for label, peer in zip(axes.get_yticklabels(), order, strict=True):
        if peer == "gnet":
            label.set(weight="bold", color=OURS)
    axes.set_title(
        f"{TRANSPORTS[measured.transport]}: {measured.scenario.title}",
        fontsize=9.5,
        loc="left",
        weight="bold",
    )
    axes.set_xlabel(measured.scenario.unit, fontsize=8)
    axes.set_xlim(0, max(max(taken) for taken in values.values()) * 1.12)
    axes.tick_params(axis="x", labelsize=7.5)
    axes.spines[["top", "right", "left"]].set_visible(False)
    axes.tick_params(axis="y", length=0)
    axes.grid(axis="x", color="#e5e5e5", linewidth=0.6)
    axes.set_axisbelow(True)

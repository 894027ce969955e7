"""The plots of the scale benchmark, as PNG files, drawn from the same cells as the tables."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from statistics import median
from typing import Any

from loadtests.scale import active, lines
from loadtests.scale.cells import Cells

# One colour and one mark for each series in all plots; gnet's are the strong ones.
LOOKS = {
    "gnet.Server": ("#c1121f", "o", 2.6),
    "gnet bare loop": ("#f4845f", "o", 1.8),
    "gnet lines()": ("#c1121f", "o", 2.6),
    "gnet read_line()": ("#f4845f", "o", 1.8),
    "gevent makefile": ("#2a9d8f", "s", 1.8),
    "asyncio streams": ("#6a4c93", "^", 1.8),
    "asyncio readline()": ("#6a4c93", "^", 1.8),
    "Go": ("#0096c7", "D", 1.8),
    "redis-server": ("#555555", "v", 1.8),
}
OTHER = ("#999999", "x", 1.5)
INCHES = (11.0, 4.6)
DPI = 110


def missing() -> str:
    """Why there are no plots here, if there are none."""
    try:
        import matplotlib  # noqa: F401
    except ImportError:
        return "no plots: matplotlib is not installed (pip install 'gnet-gevent[bench]')"
    return ""


def draw(parts: dict[str, Cells], folder: Path) -> list[Path]:
    """Draw those parts that have been measured; give the files."""
    import matplotlib

    matplotlib.use("Agg")  # no window
    matplotlib.rcParams.update({"font.size": 10, "axes.spines.top": False, "axes.spines.right": False})
    folder.mkdir(parents=True, exist_ok=True)
    files = []
    for name, paint in PAINTERS.items():
        if name in parts and parts[name].series:
            files.append(_draw_one(name, parts[name], paint, folder))
    return files


def _draw_one(name: str, cells: Cells, paint: Callable[[Any, Any, Cells], None], folder: Path) -> Path:
    from matplotlib import pyplot

    figure, (left, right) = pyplot.subplots(1, 2, figsize=INCHES, layout="constrained")
    paint(left, right, cells)
    file = folder / f"scale-{name}.png"
    figure.savefig(file, dpi=DPI)
    pyplot.close(figure)
    return file


def _paint_active(left: Any, right: Any, cells: Cells) -> None:
    for title in cells.series:
        sizes = [size for size in cells.sizes if cells.has(title, size)]
        cost = [cells.median(title, size, "cpu_us") for size in sizes]
        low = [min(cells.samples(title, size, "cpu_us")) for size in sizes]
        high = [max(cells.samples(title, size, "cpu_us")) for size in sizes]
        _line(left, title, sizes, cost)
        left.fill_between(sizes, low, high, color=_look(title)[0], alpha=0.12, linewidth=0)
        if cells.has(title, active.BASE):
            _line(right, title, sizes, [_median_ratio(cells, title, size) for size in sizes])
    for axes in (left, right):
        _sizes_on_x(axes, cells.sizes, "active connections, one request in flight on each")
        axes.set_ylim(bottom=0)
    left.set_title("CPU of the server per request, µs (band: least–most)", loc="left")
    right.set_title(f"... as a multiple of that at {active.BASE:,} connections", loc="left")
    right.axhline(1.0, color="#bbbbbb", linewidth=1, zorder=0)
    left.legend(frameon=False, loc="upper left")


def _median_ratio(cells: Cells, title: str, size: int) -> float:
    return median(cells.ratios(title, size, active.BASE, "cpu_us"))


def _paint_memory(left: Any, right: Any, cells: Cells) -> None:
    for title in cells.series:
        sizes = [size for size in cells.sizes if cells.has(title, size)]
        each = [cells.median(title, size, "kib") for size in sizes]
        _line(left, title, sizes, each)
        _line(right, title, sizes, [kib * size / 1024 for kib, size in zip(each, sizes, strict=True)])
    for axes in (left, right):
        axes.set_xlabel("idle connections")
        axes.set_xlim(left=0)
        axes.set_ylim(bottom=0)
        axes.set_xticks(cells.sizes, [f"{size:,}" for size in cells.sizes])
        axes.grid(axis="y", color="#eeeeee")
    left.set_title("Memory of the server per idle connection, KiB", loc="left")
    right.set_title("... and of all of them, MiB", loc="left")
    right.legend(frameon=False, loc="upper left")


def _paint_lines(left: Any, right: Any, cells: Cells) -> None:
    from matplotlib.ticker import LogLocator

    for title in cells.series:
        sizes = [size for size in cells.sizes if cells.has(title, size)]
        _line(left, title, sizes, [cells.median(title, size, "cpu_us") for size in sizes])
        _line(right, title, sizes, [cells.median(title, size, "mb_per_second") for size in sizes])
    for axes in (left, right):
        _sizes_on_x(axes, cells.sizes, "length of a line, its end included", lines.NAMES)
    for axes in (left, right):
        axes.set_yscale("log")
        axes.yaxis.set_major_formatter("{x:,g}")
    right.yaxis.set_major_locator(LogLocator(subs=(1, 3)))
    left.set_title("CPU of the server per line, µs", loc="left")
    right.set_title("MB per second", loc="left")
    left.legend(frameon=False, loc="upper left")


def _paint_workers(left: Any, right: Any, cells: Cells) -> None:
    for axes, title in zip((left, right), cells.series, strict=False):
        sizes = [size for size in cells.sizes if cells.has(title, size)]
        rates = [cells.median(title, size, "per_second") / 1000 for size in sizes]
        names = [f"{size} worker{'s' if size > 1 else ''}" for size in sizes]
        bars = axes.bar(names, rates, width=0.5, color=["#f4845f", "#c1121f"][: len(sizes)])
        costs = [cells.median(title, size, "cpu_us") for size in sizes]
        labels = [f"{rate:,.0f}\n{cost:.2f} µs CPU" for rate, cost in zip(rates, costs, strict=True)]
        axes.bar_label(bars, labels, padding=3)
        axes.margins(y=0.18)
        axes.set_title(f"Thousand requests per second, {title} on each connection", loc="left")


def _look(title: str) -> tuple[str, str, float]:
    return LOOKS.get(title, OTHER)


def _line(axes: Any, title: str, sizes: list[int], values: list[float]) -> None:
    colour, mark, width = _look(title)
    axes.plot(sizes, values, color=colour, marker=mark, markersize=5, linewidth=width, label=title)


def _sizes_on_x(axes: Any, sizes: list[int], label: str, names: dict[int, str] | None = None) -> None:
    """A logarithmic axis with a mark at each size that was measured, and nowhere else."""
    axes.set_xscale("log")
    axes.set_xticks(sizes, [(names or {}).get(size, f"{size:,}") for size in sizes])
    axes.minorticks_off()
    axes.set_xlabel(label)
    axes.grid(axis="y", color="#eeeeee")


PAINTERS: dict[str, Callable[[Any, Any, Cells], None]] = {
    "cpu": _paint_active,
    "memory": _paint_memory,
    "lines": _paint_lines,
    "workers": _paint_workers,
}

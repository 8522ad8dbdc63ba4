"""Presentation of a bench: a table in the terminal, and an offline page of figures."""

from __future__ import annotations

from typing import Any, Literal

from rich.console import Console
from rich.table import Table

from paredown.bench.measure import Batch, Bench, SpeedUp
from paredown.core.formatting import counted
from paredown.frontier.plots import COLOURS, page, per_layer

RATIO = "dense / deployed"  # in the same precision
HEADS: dict[str, Literal["left", "right"]] = {
    "batch": "right",
    "network": "left",
    "ms (95 % interval)": "right",
    "variant": "left",
    RATIO: "right",
}


def table(bench: Bench) -> None:
    """Print the times by batch size, the slowest layers, and whether the machine was quiet."""
    console = Console()
    console.print(title(bench), style="bold", highlight=False, soft_wrap=True)
    times = Table()
    for name, justify in HEADS.items():
        times.add_column(name, justify=justify, no_wrap=name != RATIO)  # a narrow terminal wraps this column
    for batch in bench.batches:
        for row in _rows(batch):
            times.add_row(*row)
        times.add_section()
    console.print(times)
    for line in words(bench):
        console.print(line, soft_wrap=True, highlight=False, markup=False)


def title(bench: Bench) -> str:
    """Return a line naming what was timed, and where."""
    threads = counted(bench.threads, "thread")
    return f"{bench.name} on {bench.device}, {threads}, deploy={bench.deploy}"


def words(bench: Bench) -> list[str]:
    """Return the conclusions from the table, a sentence each."""
    ratio = bench.dense_macs / bench.macs
    lines = [f"MACs: {bench.macs:,} of {bench.dense_macs:,}, {ratio:.2f}x fewer"]
    for batch in bench.batches:
        lines.append(f"batch {batch.batch}: {'; '.join(map(_verdict, batch.speed_ups))}")
    slow = sorted((row for row in bench.layers if row["ms"]), key=lambda row: -row["ms"])[:5]
    if slow:
        listed = ", ".join(f"{row['layer']} {_ms(row['dense_ms'])} -> {_ms(row['ms'])}" for row in slow)
        lines.append(f"longest layers at batch {bench.layers_batch} (ms, dense -> deployed, fp32): {listed}")
    return [*lines, bench.quiet.words()]


def figures(bench: Bench) -> str:
    """Return the page of figures: times and speed-ups by batch size, and times by layer."""
    drawn = {"times": _times(bench), "speed_ups": _speed_ups(bench)}
    curves = {label: _curve(bench, key) for label, key in (("dense", "dense_ms"), ("deployed", "ms"))}
    if any(curves.values()):
        drawn["layers"] = per_layer(curves, f"Each layer, batch {bench.layers_batch}, fp32", "ms a batch")
    return page(drawn)


def _rows(batch: Batch) -> list[list[str]]:
    ratios = {one.deployed: one for one in batch.speed_ups if one.dense == one.deployed}
    rows = []
    for time in batch.times:
        ratio = ratios[time.precision] if time.network == "deployed" else None
        speed_up = f"{ratio.value:.2f}x ({ratio.low:.2f}, {ratio.high:.2f})" if ratio else ""
        ms = f"{time.ms:.4g} ({time.low:.4g}, {time.high:.4g})"
        rows.append([str(batch.batch), f"{time.network} {time.precision}", ms, time.variant, speed_up])
    return rows


def _verdict(one: SpeedUp) -> str:
    names = f"deployed {one.deployed} against dense {one.dense}"
    if one.low <= 1 <= one.high:
        return f"{names} no faster"
    return f"{names} {one.value:.2f}x faster" if one.value > 1 else f"{names} {1 / one.value:.2f}x SLOWER"


def _ms(value: float | None) -> str:
    return "-" if value is None else f"{value:.3f}"


def _curve(bench: Bench, key: str) -> dict[str, float]:
    return {row["layer"]: row[key] for row in bench.layers if row[key] is not None}


def _times(bench: Bench) -> Any:
    # bars rather than lines: batch sizes are few and far apart
    from plotly import graph_objects

    labels = list(dict.fromkeys((time.network, time.precision) for batch in bench.batches for time in batch.times))
    plot = graph_objects.Figure()
    for index, label in enumerate(labels):
        times = [next(one for one in batch.times if (one.network, one.precision) == label) for batch in bench.batches]
        per_image = [1e3 * one.ms / batch.batch for one, batch in zip(times, bench.batches, strict=True)]
        up = [1e3 * (one.high - one.ms) / batch.batch for one, batch in zip(times, bench.batches, strict=True)]
        down = [1e3 * (one.ms - one.low) / batch.batch for one, batch in zip(times, bench.batches, strict=True)]
        error = {"type": "data", "array": up, "arrayminus": down}
        names = [f"batch {batch.batch}" for batch in bench.batches]
        bar = {
            "marker_color": COLOURS[index],
            "error_y": error,
            "texttemplate": "%{y:.3s}",
            "insidetextanchor": "start",
        }
        plot.add_trace(graph_objects.Bar(name=" ".join(label), x=names, y=per_image, **bar))
    return _layout(plot, f"{title(bench)}<br><sub>{bench.quiet.words()}</sub>", "microseconds an image")


def _speed_ups(bench: Bench) -> Any:
    from plotly import graph_objects

    labels = list(dict.fromkeys((one.dense, one.deployed) for batch in bench.batches for one in batch.speed_ups))
    plot = graph_objects.Figure()
    for index, (dense, deployed) in enumerate(labels):
        found = [(batch, one) for batch in bench.batches for one in batch.speed_ups]
        pairs = [(batch, one) for batch, one in found if (one.dense, one.deployed) == (dense, deployed)]
        error = {"type": "data", "array": [one.high - one.value for _, one in pairs]}
        error |= {"arrayminus": [one.value - one.low for _, one in pairs]}
        bar: dict[str, Any] = {
            "marker_color": COLOURS[index],
            "error_y": error,
            "texttemplate": "%{y:.2f}x",
            "insidetextanchor": "start",
        }
        names, values = [f"batch {batch.batch}" for batch, _ in pairs], [one.value for _, one in pairs]
        plot.add_trace(graph_objects.Bar(name=f"dense {dense} / deployed {deployed}", x=names, y=values, **bar))
    plot.add_hline(y=1, line_dash="dot", annotation_text="as fast as dense")
    ratio = bench.dense_macs / bench.macs
    plot.add_hline(y=ratio, line_dash="dash", annotation_text=f"{ratio:.2f}x fewer MACs")
    return _layout(plot, "Measured speed-up, 95 % intervals of the median", "dense time / deployed time")


def _layout(plot: Any, title: str, unit: str) -> Any:
    plot.update_layout(title=title, yaxis_title=unit, template="plotly_white", barmode="group", showlegend=True)
    plot.update_yaxes(rangemode="tozero")
    return plot

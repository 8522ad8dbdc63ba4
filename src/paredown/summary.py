"""The table at the end of a run."""

from __future__ import annotations

from rich.console import Console
from rich.table import Table

from paredown.execute import Result


def show(result: Result, title: str) -> None:
    """Print accuracy, cost and latency of `result`, its dense reference beside it, and where things are."""
    m = result.metrics
    table = Table()
    for name, justify in (("", "left"), ("dense", "right"), ("deployed", "right"), ("ratio", "right")):
        table.add_column(name, justify=justify)  # type: ignore[arg-type]
    gain = f"{m['gain/top1']:+.2f} points" if "gain/top1" in m else ""
    table.add_row("top-1, last epoch (%)", _number(m.get("dense/top1")), _number(m["final/top1"]), gain)
    table.add_row("top-1, best test epoch (%)", "", _number(m["best/top1"]), "")
    if "selected/top1" in m:
        table.add_row("top-1, best val epoch (%)", "", _number(m["selected/top1"]), "")
    if "base/top1" in m:
        table.add_row("top-1, last epoch of full rank (%)", "", _number(m["base/top1"]), "")
    if "rank/sum" in m:
        ranks = (_big(m["rank/full"]), _big(m["rank/sum"]), f"{m['rank/full'] / m['rank/sum']:.2f}x fewer")
        table.add_row("singular values, all layers", *ranks)
    table.add_row("MACs", _big(m["cost/dense_macs"]), _big(m["cost/macs"]), f"{m['cost/speed_up']:.2f}x fewer")
    table.add_row(
        "parameters",
        _big(m["cost/dense_params"]),
        _big(m["cost/params"]),
        f"{m['cost/compression']:.2f}x fewer",
    )
    rules = {name: value for name, value in m.items() if name.startswith("cost/speed_up_")}
    others = ", ".join(f"{name.removeprefix('cost/speed_up_')} {value:.2f}x" for name, value in rules.items())
    table.add_row("sparsity", "", f"{m['cost/sparsity']:.2%}", "")
    latency = (
        _number(m["latency/dense_ms"], 3),
        _number(m["latency/ms"], 3),
        _measured(m["latency/speed_up"], m["latency/speed_up_low"], m["latency/speed_up_high"]),
    )
    table.add_row("latency (ms a batch)", *latency)
    console = Console()
    console.print(title, style="bold", soft_wrap=True, highlight=False)
    console.print(table)
    console.print(f"MACs as other papers count them: {others} fewer (docs/cost.md)", soft_wrap=True, highlight=False)
    if result.reused:
        console.print("finished before: this is the stored result")
    console.print(
        f"network  {result.state}\nrecords  {result.folder}\nMLflow   make dashboard", soft_wrap=True, highlight=False
    )


def _measured(ratio: float, low: float, high: float) -> str:
    if low <= 1 <= high or 0.95 < ratio < 1.05:  # the single turns disagree, or hardly differ
        return "no faster, measured"
    return f"{ratio:.2f}x faster, measured" if ratio > 1 else f"{1 / ratio:.2f}x SLOWER, measured"


def _number(value: float | None, digits: int = 2) -> str:
    return "" if value is None else f"{value:.{digits}f}"


def _big(value: float) -> str:
    return f"{value:,.0f}"

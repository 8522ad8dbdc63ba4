"""What the numbers of a published row measure: the metric of ours that is the same quantity, or why none is."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from math import isnan

from paredown.published import filters
from paredown.published.table import NUMBERS, PublishedRow

TOPS = ("top1", "top5")
RULES = ("conv", "sfp", "cnn_fcf", "thop")  # whose speed-ups a run records
# the printed cost is the target of their runs
AT_PRINTED_COST = ("trp", "zhang2016", "jaderberg2014", "alds", "lr_s2")
FIXED = (
    "ssc",
    "f_group",
    "sfp",
    "cnn_fcf",
    "c_sgd",
    "nisp",
)  # methods whose network's shape follows from the target alone
CHANGES = ("flops_change", "params_change")  # in percent, of what a ratio of ours measures
# Counted costs are compared to within these. Papers print two decimals and count by rules of their own, which ours
# follow to about a percent; SSC prints whole percents of sparsity.
SHARE = 0.01  # of a ratio
POINTS = {"sparsity": 0.005, "flops_change": 0.5, "params_change": 0.5}
ROUNDED = 0.005  # accuracies and gains are printed to two decimals
OTHER_BASE = "printed against the base of SVD training, another network than this row's own"
ITSELF = "by definition: the row is the dense network itself"


@dataclass(frozen=True)
class Quantity:
    """The number `theirs` in a `column` of a published row, and the `metric` of ours that measures it (None: none, and
    `why`). Ours is `counted` or trained, and equal to it within the `tolerance`; one that was `asked` for shows
    nothing, and one that is `fixed` is the same for all seeds."""

    column: str
    theirs: float
    metric: str | None
    why: str = ""
    tolerance: float = ROUNDED
    counted: bool = False
    asked: bool = False
    fixed: bool = False

    def ours(self, run: Mapping[str, float]) -> float | None:
        """Return the quantity in the metrics of `run`, None where they lack it."""
        if self.metric is None or self.metric not in run:
            return None
        return 100 / run[self.metric] - 100 if self.column in CHANGES else run[self.metric]


def quantities(row: PublishedRow) -> list[Quantity]:
    """Return what each number of `row` measures, in the order of the table's columns. A printed standard deviation is
    no quantity beside its mean."""
    numbers = {name: float(row[name]) for name in NUMBERS if not isnan(row[name]) and name != "top1_std"}
    return [quantity(row, name, theirs) for name, theirs in numbers.items()]


def quantity(row: PublishedRow, column: str, theirs: float) -> Quantity:
    """Return what the number `theirs` in `column` of `row` measures."""
    if column.startswith(("top", "gain_", "dense_")):
        what, _, top = column.rpartition("_")
        metric, why = _accuracy(row, what, top)
        return Quantity(column, theirs, metric, why)
    if row["method"] == "dense":
        return Quantity(column, theirs, None, ITSELF)
    asked = column == "sparsity" or (column in ("speed_up", "flops_change") and _at_printed_cost(row))
    asked |= column in ("compression", "params_change") and row["paper"] == "ssc" and row["method"] in filters.METHODS
    tolerance = POINTS.get(column, SHARE * theirs)
    fixed = row["method"] in FIXED
    return Quantity(column, theirs, _cost(row, column), "", tolerance, counted=True, asked=asked, fixed=fixed)


def _at_printed_cost(row: PublishedRow) -> bool:
    """Return whether the printed cost is the target of the row's runs."""
    cuts = row["method"] in filters.METHODS and row["paper"] != "ssc"
    return row["method"] in AT_PRINTED_COST or (cuts and not filters.fixed_rate(row))


def differing(rows: Iterable[PublishedRow], column: str, metric: str) -> dict[str, int]:
    """Count the `rows` whose number in `column` is not the quantity `metric`, by what it is instead."""
    found: dict[str, int] = {}
    for row in rows:
        own = quantity(row, column, float(row[column]))
        if own.metric != metric and row["method"] != "dense":
            name = own.metric or own.why
            found[name] = found.get(name, 0) + 1
    return found


def best_epoch(row: PublishedRow) -> bool:
    """Return whether `row` prints the best test epoch, as GraSP's code does, which SSC's tables follow, and those of
    SVD training, SFP and C-SGD. Results without training have no epochs; what the authors of TRP printed is not known.
    """
    return row["paper"] == "ssc" or row["method"] in ("svd_training", "sfp", "c_sgd")


def _accuracy(row: PublishedRow, what: str, top: str) -> tuple[str | None, str]:
    """Return the metric of an accuracy, of its gain or of the dense network's, or why there is none."""
    method, best = row["method"], "best_" if best_epoch(row) else ""
    if not what:
        return f"{'best' if best else 'final'}/{top}", ""
    if method == "dense":
        return None, ITSELF
    if row["gain_reference"] == "svd_training_base":
        return None, OTHER_BASE
    # against the network before its decomposition, else the dense one of the same recipe
    own = method in ("svd_training", *AT_PRINTED_COST) or row["gain_reference"] == "pretrained_model"
    if what == "dense":
        return f"{'base' if own else 'dense'}/{best}{top}", ""
    return f"gain/{'base_' if own else ''}{best}{top}", ""


def _cost(row: PublishedRow, column: str) -> str:
    """Return the metric of a counted cost, by the rule of the row."""
    if column in ("speed_up", "flops_change"):
        return f"cost/speed_up_{row['counting']}" if row["counting"] in RULES else "cost/speed_up"
    return "cost/sparsity" if column == "sparsity" else "cost/compression"

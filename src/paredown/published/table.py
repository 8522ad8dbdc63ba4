"""One table of the published results of all papers, in this project's names and units."""

from __future__ import annotations

import csv
import re
from collections.abc import Callable, Iterator, Mapping
from math import isnan
from pathlib import Path
from typing import TYPE_CHECKING, Any

from paredown.published import readers
from paredown.published.readers import Cells, Columns

if TYPE_CHECKING:
    import pandas

HERE = Path(__file__).parent
PublishedRow = Mapping[str, Any]  # all columns below

# In column order. Accuracies in percent, gains in points, changes in percent, all else in the units of our metrics.
WORDS = ["id", "paper", "table", "row", "dataset", "model", "network", "method", "label", "hyperparameters"]
NUMBERS = ["top1", "top1_std", "top5", "gain_top1", "gain_top5", "dense_top1", "dense_top5"]
NUMBERS += ["speed_up", "sparsity", "compression", "flops_change", "params_change"]
REMARKS = ["counting", "gain_reference", "mark", "note", "details"]

# CSV file: reader of its rows
TABLES: dict[str, Callable[[Cells], Columns]] = {
    "ssc/table1_cifar_vgg19_resnet32.csv": readers.ssc,
    "ssc/table2_tiny_imagenet_vgg19_resnet32.csv": readers.ssc,
    "ssc/table3_imagenet_resnet50.csv": readers.ssc,
    "ssc/table4_imagenet_resnet18.csv": readers.ssc,
    "ssc/table5_efficient_cifar10.csv": readers.ssc,
    "svd_training/table3_cifar10_svd_training.csv": readers.svd_training,
    "svd_training/table4_imagenet_resnet18_svd_training.csv": readers.svd_training,
    "svd_training/table5_imagenet_resnet50_svd_training.csv": readers.svd_training,
    "svd_training/table6_cifar10_baselines.csv": readers.svd_training,
    "svd_training/table7_imagenet_resnet18_baselines.csv": readers.svd_training,
    "svd_training/table8_imagenet_resnet50_baselines.csv": readers.svd_training,
    "svd_nas/maintext_posttraining_thirdparty.csv": readers.svd_nas("main"),
    "svd_nas/table_s1_search_time.csv": readers.svd_nas("S1"),
    "svd_nas/table_s2_search_set_size.csv": readers.svd_nas("S2"),
    "svd_nas/table_s3_posttraining.csv": readers.svd_nas("S3"),
    "beta_lasso/betalasso_tables_3_4.csv": readers.beta_lasso,
}

# Reliability marks, shown wherever a row is shown, and the pattern of the notes that call for them.
MARKS = {
    "inferred": r"\binferred\b",
    "suspect": r"suspect|misprint|looks small|does not match|of the explicit count|may be meant|as printed; "
    r"(computed|a third-party)|one OCR copy reads",
    "unconfirmed": r"unconfirmed",
    "third party": r"NOT from the seeds|via third-party",
    "derived": r"\bderived as\b",
    "incomplete": r"\blost\b",
}


def load() -> pandas.DataFrame:
    """Load every row of every published table, in the order of the files; `id` is PAPER/tableTABLE/ROW, as in
    svd_training/table3/11.

    Where the paper prints the dense accuracy, accuracy and gain are derived from each other; `speed_up` and
    `compression` are derived from a printed change of FLOPs or parameters. Missing values are NaN or ''. `mark` is ''
    or some of MARKS; `network` holds the settings of conf/model/MODEL.yaml in which papers differ.
    """
    import pandas

    table = pandas.DataFrame(list(_rows()))
    return table.reindex(columns=WORDS + NUMBERS + REMARKS)


def marks(note: str) -> str:
    """Return the names of the MARKS whose pattern is in `note`, separated by commas."""
    return ", ".join(mark for mark, pattern in MARKS.items() if re.search(pattern, note))


def _rows() -> Iterator[PublishedRow]:
    for name, reader in TABLES.items():
        numbers: dict[str, int] = {}
        with (HERE / name).open(newline="", encoding="utf-8") as file:
            for cells in csv.DictReader(file):
                row = reader(cells)
                numbers[row["table"]] = numbers.get(row["table"], 0) + 1
                yield _complete(name.partition("/")[0], numbers[row["table"]], row, cells["note"])


def _complete(paper: str, number: int, row: Columns, note: str) -> PublishedRow:
    empty: dict[str, Any] = dict.fromkeys(WORDS + REMARKS, "") | dict.fromkeys(NUMBERS, float("nan"))
    name = {"id": f"{paper}/table{row['table']}/{number}", "paper": paper, "row": number}
    remark = {"note": note, "mark": marks(note)}
    full = empty | {"network": {}, "hyperparameters": {}, "details": {}} | row | name | remark
    for top in ("top1", "top5"):
        _fill(full, top)
    return full


def _fill(row: Columns, top: str) -> None:
    """Derive accuracy and gain from each other where the dense accuracy is printed."""
    dense, gain = row[f"dense_{top}"], f"gain_{top}"
    if isnan(row[top]):
        row[top] = round(dense + row[gain], 4)
    elif isnan(row[gain]):
        row[gain] = round(row[top] - dense, 4)

"""The Python API: a few functions, each of which works on an `nn.Module`; `paredown` offers them."""

from paredown.api.compression import compress
from paredown.api.experiment import Experiment, run
from paredown.api.networks import compare_latency, count, deploy, export, load
from paredown.api.report import Report

__all__ = ["Experiment", "Report", "compare_latency", "compress", "count", "deploy", "export", "load", "run"]

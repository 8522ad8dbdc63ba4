"""The demonstration: equal training, what is finished is kept, what fails says why, and the report's path is shown."""

from __future__ import annotations

import io
import webbrowser
from pathlib import Path

import pytest
from rich.console import Console

from paredown.cli import demo as cli
from paredown.core import progress
from paredown.core.requests import Failure
from paredown.run.walk import Result
from paredown.sweep import demo as module
from paredown.sweep.demo import POINTS, Row, demo, opened, table

SMALL = ("model.depth=8", "dataset.fraction=0.2", "tracking=off", "latency.seconds=0")


def text(rows: list[Row]) -> str:
    console = Console(file=io.StringIO(), width=120)
    console.print(table(rows))
    return console.file.getvalue()  # type: ignore[attr-defined]


def test_it_has_five_methods_at_one_target() -> None:
    methods = [words[0].removeprefix("method=") for words in POINTS]
    assert len(set(methods)) == 5 and methods[0] == "dense"
    assert len({word for words in POINTS[1:] for word in words if word.startswith("speed_up=")}) == 1


@pytest.mark.slow
def test_every_network_sees_as_many_images(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    points = [("method=dense", *SMALL), ("method=l1_filters", "speed_up=2", *SMALL), ("method=nosuch", *SMALL)]
    dense, small, wrong = demo(tmp_path, 1_500, points)
    used = [row.metrics["price/images"] for row in (dense, small)]
    assert all(0.7 * 1_500 < images <= 1_500 for images in used)
    assert small.metrics["cost/speed_up"] == pytest.approx(2, rel=0.05)
    assert "no method 'nosuch'" in wrong.failed and not wrong.metrics
    said = capsys.readouterr().out
    assert "l1_filters" in said and "2x" in said and "done" in said and "no method 'nosuch'" in said


@pytest.mark.parametrize(
    ("low", "high", "said"), [(0.97, 1.02, "as dense"), (0.6, 5.0, "undecided"), (1.4, 1.6, "1.50x")]
)
def test_a_speed_is_shown_as_far_as_it_is_known(low: float, high: float, said: str) -> None:
    times = {"latency/speed_up": 1.5, "latency/speed_up_low": low, "latency/speed_up_high": high}
    assert said in text([Row(("method=ssc", "speed_up=3"), {"final/top1": 97.0, "cost/macs": 8e5} | times)])


def test_the_running_one_shows_its_stage() -> None:
    row = Row(("method=ssc", "speed_up=3"), runs=True)
    assert "starts" in text([row])
    with progress.working_on("stage 2 of 2: train"), progress.working_on("training", 10, "epochs") as work:
        work.advance(4)
        assert "stage 2 of 2: train, training 4/10 epochs" in text([row, Row(("method=dense",))])


def test_without_a_terminal_each_stage_is_a_line(monkeypatch, capsys, tmp_path: Path) -> None:
    def run(words: list[str]) -> Result:
        with progress.working_on("stage 1 of 1: train"):
            progress.tell("epoch 1/10")
        return Result({"final/top1": 90.0}, tmp_path, tmp_path, None)

    monkeypatch.setattr(module.walk, "run", run)
    demo(tmp_path, 13_000, [("method=dense",)])
    out, said = capsys.readouterr()
    assert out.splitlines()[:2] == ["dense  starts", "dense  done  90.00"]
    assert said == "stage 1 of 1: train: epoch 1/10\n" and not progress.heard()


@pytest.mark.parametrize("error", [True, False])
def test_a_page_is_opened_where_there_is_a_browser(error: bool, tmp_path: Path, monkeypatch) -> None:
    seen: list[str] = []

    class Browser:
        def open(self, address: str) -> bool:
            seen.append(address)
            return True

    def get() -> Browser:
        if error:
            raise webbrowser.Error
        return Browser()

    monkeypatch.setattr(webbrowser, "get", get)
    assert opened(tmp_path / "report.html") is not error
    assert seen == ([] if error else [(tmp_path / "report.html").resolve().as_uri()])


@pytest.mark.parametrize(("browser", "said"), [(True, " (opened in the browser)"), (False, "")])
def test_the_path_of_the_report_is_printed_in_any_case(browser: bool, said: str, monkeypatch, capsys) -> None:
    monkeypatch.setattr(module, "demo", lambda output, images: [Row(("method=dense",), {"final/top1": 1.0})])
    monkeypatch.setattr(module, "opened", lambda page: browser)
    monkeypatch.setattr(cli, "_report", lambda output: output / "report.html")
    cli._demo(cli.Request(output=Path("there")))
    report, mlflow, after = capsys.readouterr().out.splitlines()
    assert report == f"report   there/report.html{said}" and mlflow == "MLflow   make dashboard OUTPUT=there"
    assert after == "next     python src/run.py --help: experiments of your own"


def test_where_nothing_was_done_there_is_no_report(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "demo", lambda output, images: [Row(("method=dense",), failed="x")])
    with pytest.raises(Failure, match="the table says why"):
        cli._demo(cli.Request())

"""Pages as people see them: the dashboard in five states and the report on a phone, in the dark and on paper.

Pictures are kept in the folder PAREDOWN_TEST_SHOTS, if there is one.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from paredown.report.dashboard import Chart, charts
from paredown.report.publish import NOTE, refresh
from paredown.report.request import Request
from paredown.results.page import last_attempt
from paredown.tracking.view import run_link, view_link

ROOT = Path(__file__).parents[2]
sys.path.insert(0, str(ROOT / "tests" / "tracking"))
from browser import Browser, free_port, missing  # noqa: E402

pytestmark = [pytest.mark.slow, pytest.mark.skipif(bool(missing()), reason=f"{missing()} is not installed")]
METHODS = ("dense", "magnitude", "snip", "ssc", "zhang")
POINTS = ".scatterlayer .point"
FILLS = f"return new Set([...document.querySelectorAll('{POINTS}')].map(one => one.style.fill)).size"


@pytest.fixture
def shots(tmp_path) -> Path:
    return Path(os.environ.get("PAREDOWN_TEST_SHOTS", tmp_path))


@contextmanager
def dashboard(output: Path) -> Iterator[str]:
    """The address of `make dashboard` on the records in `output`."""
    command = [sys.executable, str(ROOT / "scripts/dashboard.py"), "--output", str(output), "--port", str(free_port())]
    environment = os.environ | {"PYTHONPATH": str(ROOT / "src")}
    server = subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True)
    try:
        assert server.stdout is not None
        next(line for line in server.stdout if "Ctrl-C" in line)
        yield (output / "dashboard.url").read_text()
    finally:
        server.send_signal(signal.SIGINT)
        server.wait(timeout=60)


def saved(records) -> Chart:
    """The first chart, saved again as the dashboard does every minute."""
    (experiment,) = records.client.search_experiments(filter_string="name != 'Default'")
    return charts(records.client, experiment)[0]


def fill(records) -> None:
    """59 more runs of five methods, one data set and network, and their sweep."""
    records.sweep("front")
    for number in range(59):
        method, seed, step = METHODS[number % 5], number // 5 % 3, number // 15
        speed_up = 1.0 if method == "dense" else 2.0**step
        accuracy = 92 - 0.7 * step * (number % 5) ** 0.5 + seed / 10
        params = {"method": {"kind": method}}
        gain = {"gain__top1": accuracy - 92}
        records.experiment(method, seed, accuracy, speed_up, tags={"sweep": "front"}, params=params, **gain)


def test_the_dashboard_in_five_states(make_records, shots) -> None:
    records = make_records()
    first = records.experiment("ssc", 7, 90.0, 4)
    records.client.delete_run(first)
    with dashboard(records.folder) as server, Browser() as browser:

        def look(link: str, name: str, seen: str, points: int | None = None) -> None:
            browser.open("about:blank")
            browser.open(link)
            browser.wait(lambda: seen in browser.text(), 240)
            if points is not None:
                browser.wait(lambda: browser.count(POINTS) == points, 240)
            browser.shot(shots / f"{name}.png")
            assert "MLflow Assistant" not in browser.text()

        look(view_link(server, "1"), "empty", "0 matching runs")
        records.client.restore_run(first)
        look(view_link(server, "1", saved(records).key), "one-run", "1 matching run", 1)
        fill(records)
        look(view_link(server, "1", saved(records).key), "sixty-runs", "60 matching runs", 60)
        assert browser.run(FILLS) == len(METHODS)
        report, _ = refresh(Request(output=str(records.folder), sweep="front", budget="speed_up>=4"))
        look(run_link(server, "1", str(report.parent)), "sweep", "Best under cost/speed_up >= 4")
        browser.run("[...document.querySelectorAll('a, button')].find(one => one.innerText === 'Show more').click()")
        browser.wait(lambda: browser.run("return document.querySelector(\"img[src*='front.png']\")?.naturalWidth > 0"))
        browser.shot(shots / "sweep-whole.png")
        why = {NOTE: last_attempt(ValueError("the loss is not finite"))}
        failed = records.experiment("ssc", 3, 0.0, 8, status="FAILED", layers=False, tags=why)
        look(run_link(server, "1", failed), "failure", "The last attempt failed. ValueError: the loss is not finite")


def test_the_report_on_a_phone_in_the_dark_and_on_paper(make_records, shots) -> None:
    records = make_records()
    fill(records)
    _, files = refresh(Request(output=str(records.folder), sweep="front", budget="speed_up>=4"))
    with Browser() as browser:
        browser.emulate(400, 860)
        browser.open(files[0].as_uri())
        browser.wait(lambda: browser.count(POINTS) >= 10)
        browser.shot(shots / "report-phone.png", whole=True)
        assert browser.run("return document.documentElement.scrollWidth") == 400  # nothing is wider than the screen
        browser.emulate(1100, 900, dark=True)
        heads = "document.querySelector('table.sortable').querySelectorAll('th')"
        browser.run(f"{heads}[2].querySelector('button').click()")
        column = "return [...document.querySelector('table.sortable tbody').rows].map(row => row.cells[2].innerText)"
        sorted_ = [float(text.split()[0]) for text in browser.run(column)]
        assert sorted_ == sorted(sorted_) and browser.run(f"return {heads}[2].getAttribute('aria-sort')") == "ascending"
        browser.run("document.querySelector('table.sortable tbody a').click()")
        browser.wait(lambda: browser.count("details.point[open]") == 1)
        rows = browser.count("#compare tbody tr")
        assert rows == 2 and browser.run("return getComputedStyle(document.body).backgroundColor") == "rgb(22, 24, 28)"
        wide = "return document.querySelector('#front .main-svg').getBoundingClientRect().width"
        browser.wait(lambda: browser.run(wide) > 800)  # the figure has grown with the window
        browser.shot(shots / "report-dark.png", whole=True)
        browser.emulate(720, 900, paper=True, dark=True)
        browser.run("window.dispatchEvent(new Event('beforeprint'))")
        browser.wait(lambda: browser.run(wide) == 660)  # between the margins
        browser.shot(shots / "report-paper.png", whole=True)
        assert browser.run("return getComputedStyle(document.querySelector('.main-svg')).filter") == "none"
        browser.emulate(1100, 900)
        browser.run("window.dispatchEvent(new Event('afterprint'))")
        browser.wait(lambda: browser.run(wide) > 800)

"""The report's files, its page in MLflow, and the command line."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pandas
import pytest

from paredown.report.publish import NOTE, description, refresh
from paredown.report.request import Request

ROOT = Path(__file__).parents[2]
sys.path.insert(0, str(ROOT / "tests" / "tracking"))
from browser import Browser, free_port, missing  # noqa: E402

FILES = ["report.html", "front.html", "front.png", "front.csv"]


def run(*words: str) -> subprocess.CompletedProcess[str]:
    environment = os.environ | {"PYTHONPATH": str(ROOT / "src"), "COLUMNS": "120"}
    command = [sys.executable, str(ROOT / "src" / "report.py"), *words]
    return subprocess.run(command, env=environment, capture_output=True, text=True, check=False)


@pytest.fixture(scope="module")
def published(recorded):
    return refresh(Request(output=str(recorded.folder), sweep="whole", budget="speed_up>=2"))


def test_the_page_is_one_file_with_all_of_it(published) -> None:
    report, files = published
    assert [path.name for path in files] == FILES
    text = files[0].read_text()
    assert "<script src" not in text and "<link" not in text and "@import" not in text
    visible = re.sub(r"<script.*?</script>", "", text, flags=re.DOTALL)
    for part in (
        "Best under cost/speed_up &gt;= 2: ssc speed_up=4",
        "rank=5",
        "svd_training/table3/5",
        "<b>suspect</b>",
    ):
        assert part in visible, part
    assert "12 distinct stages, 60 epochs, 120 s, 12G MACs" in visible and "runs not shown: 1 failed" in visible
    assert "reused 6 times, which saved 30 epochs, 60 s and 6G MACs" in visible
    costs = "<td>dense</td><td>1k</td><td>0</td><td>10</td><td>20</td><td>2G</td><td>50%</td>"
    assert costs in visible
    assert "<td>2,000</td><td>500</td>" in visible and "<td>25.0%</td>" in visible  # MACs and density of a layer
    assert "decomposition=spatial" in visible and "counted by" in visible
    assert "make dashboard" in visible and "Debug runs" not in visible
    assert "<td>-1.000</td>" in visible and "<td>4.000</td>" in visible  # gain and speed-up: columns that are no axis
    assert "Measured: 4.000 ms a batch before, 2.000 ms after" in visible and report.scope in visible


def test_names_of_the_user_are_no_html(make_records) -> None:
    records = make_records()
    records.experiment("<b>bold</b>", 0, 90.0, params={"method": {"note": "<script>alert(1)</script>"}})
    records.experiment("<b>bold</b>", 1, 91.0, params={"method": {"note": "x"}})
    _, files = refresh(Request(output=str(records.folder), dataset="cifar10"))
    assert "<b>bold</b>" not in files[0].read_text() and "<script>alert" not in files[0].read_text()


def test_names_of_the_user_are_no_markdown(make_records) -> None:
    records = make_records()
    for seed, note in enumerate(("a|b <script>alert(1)</script> [x](javascript:alert(1))", "`c`")):
        records.experiment("dense", seed, 90.0 + seed, params={"method": {"note": note}})
    report, _ = refresh(Request(output=str(records.folder), dataset="cifar10"))
    text = description(report, "run", "1")
    rows = [line for line in text.splitlines() if line.startswith("|")]
    assert {line.count("|") for line in rows} == {6} and "<script" not in text and "[x]" not in text
    assert "dense note=a&#124;b &lt;script&gt;alert(1)&lt;/script&gt; &#91;x&#93;(javascript:alert(1))" in text
    assert "note=&#96;c&#96;" in text


def test_debug_runs_named_by_id_are_marked(make_records) -> None:
    records = make_records()
    run_id = records.experiment("dense", 0, 90.0, tags={"debug": "fast"})
    report, files = refresh(Request(output=str(records.folder), runs=(run_id,)))
    assert "Debug runs are among these" in files[0].read_text()
    assert any(line.startswith("debug runs among these") for line in report.missing)


def test_a_budget_on_an_axis_is_drawn(recorded) -> None:
    request = Request(output=str(recorded.folder), dataset="cifar10", sweep="whole", x="speed_up", budget="speed_up>=2")
    _, files = refresh(request)
    assert all(re.search(r'"text":"cost\S+speed_up \S+ 2"', path.read_text()) for path in files[:2])


def test_a_long_table_is_cut_with_the_front_first(make_records) -> None:
    records = make_records()
    for number in range(17):
        records.experiment("ssc", 0, 90.0 - number, 2.0, params={"method.p": number})
    report, _ = refresh(Request(output=str(records.folder), dataset="cifar10"))
    table = [line for line in description(report, "run", "1").splitlines() if line.startswith("| ")]
    assert len(table) == 1 + 15 + 1 and table[1].startswith("| **ssc speed_up=2 p=0** | 1 | 90.00 |")
    assert table[-1] == "| and 2 more | | | | |"


def test_the_data_of_the_front(published) -> None:
    _, files = published
    table = pandas.read_csv(files[3])
    own, theirs = table[table["source"] == "own"], table[table["source"] == "published"]
    assert len(own) == 3 and len(theirs) == 18
    assert own.set_index("name").loc["dense", "final/top1"] == pytest.approx(91.1)
    assert theirs.set_index("name").loc["svd_training/table3/5", "mark"] == "suspect"


def test_the_sweeps_page_shows_it(published, recorded) -> None:
    report, _ = published
    run_ = recorded.client.get_run(report.parent)
    assert {artifact.path for artifact in recorded.client.list_artifacts(report.parent)} >= set(FILES)
    note = run_.data.tags[NOTE]
    assert f"get-artifact?path=front.png&run_uuid={report.parent}" in note and len(note) < 8000
    parts = (
        "Best under cost/speed_up &gt;= 2: ssc speed_up=4",
        "![",
        "| **dense** | 3 |",
        "Dominated area",
        "Filled points",
    )
    assert sorted(parts, key=note.index) == list(parts)


def test_a_part_of_a_sweep_stays_off_its_page(recorded) -> None:
    report, _ = refresh(Request(output=str(recorded.folder), sweep="mixed", dataset="digits"))
    assert report.parent is None


@pytest.mark.slow
def test_the_command_line(recorded, tmp_path) -> None:
    output = f"output={recorded.folder}"
    done = run(output, "sweep=whole", "budget=speed_up>=2", f"folder={tmp_path}")
    assert done.returncode == 0 and not done.stderr
    assert "Best under cost/speed_up >= 2: ssc speed_up=4, final/top1 90.10 ± 0.25." in done.stdout
    assert [path for path in FILES if str(tmp_path / path) in done.stdout.splitlines()] == FILES
    for words, line in (
        ((output, "sweep=waiting"), "paredown: waiting: no run is finished yet (runs not shown: 1 running)\n"),
        ((output, "swep=a"), "paredown: unknown key 'swep': did you mean sweep? "),
        (
            ("tracking.uri=http://127.0.0.1:9", "sweep=a"),
            "paredown: http://127.0.0.1:9 does not answer as an MLflow store",
        ),
        ((output, "sweep=whole", "folder=/proc/a"), "paredown: cannot write the report into /proc/a: "),
    ):
        failed = run(*words)
        assert (failed.returncode, failed.stderr.count("\n")) == (2, 1) and failed.stderr.startswith(line)


def test_help_is_quick_and_whole() -> None:
    started = time.perf_counter()
    done = run("--help")
    assert done.returncode == 0 and "Exit codes" in done.stdout
    assert time.perf_counter() - started < 2  # a busy machine; 0.1 s alone
    heavy = (
        "import sys; import paredown.cli.report; print([m for m in sys.modules if m in ('pandas', 'mlflow', 'torch')])"
    )
    environment = os.environ | {"PYTHONPATH": str(ROOT / "src")}
    assert subprocess.check_output([sys.executable, "-c", heavy], env=environment, text=True) == "[]\n"


@pytest.mark.slow
@pytest.mark.skipif(bool(missing()), reason=f"{missing()} is not installed")
def test_pages_in_a_browser(published, recorded, tmp_path) -> None:
    report, files = published
    shots = Path(os.environ.get("PAREDOWN_TEST_SHOTS", tmp_path))
    command = [sys.executable, str(ROOT / "scripts/dashboard.py"), "--output", str(recorded.folder)]
    environment = os.environ | {"PYTHONPATH": str(ROOT / "src")}
    port = free_port()
    server = subprocess.Popen([*command, "--port", str(port)], env=environment, stdout=subprocess.PIPE, text=True)
    try:
        assert server.stdout is not None
        next(line for line in server.stdout if "Ctrl-C" in line)
        experiment = recorded.client.get_run(report.parent).info.experiment_id
        page = f"http://127.0.0.1:{port}/#/experiments/{experiment}/runs/{report.parent}"
        with Browser() as browser:
            browser.open(files[0].as_uri())
            browser.wait(lambda: browser.count(".scatterlayer .point") >= 3 + 18)
            browser.shot(shots / "report.png")
            browser.open(f"{page}?workflowType=machine_learning")
            browser.wait(lambda: "Best under cost/speed_up >= 2: ssc speed_up=4" in browser.text())
            browser.wait(lambda: browser.count("img[src*='front.png']") == 1)
            browser.shot(shots / "sweep.png")
            browser.open(f"{page}/artifacts/front.html?workflowType=machine_learning")
            browser.wait(lambda: browser.count("iframe") == 1)
            browser.enter_frame()
            browser.wait(lambda: browser.count(".scatterlayer .point") >= 3 + 18)
    finally:
        server.send_signal(signal.SIGINT)
        server.wait(timeout=30)

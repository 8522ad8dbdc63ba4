"""The report's page as a browser reads it: parsed, offline, with names that are hostile."""

from __future__ import annotations

import json
import re
from html.parser import HTMLParser

import pytest

from paredown.core.config import compose
from paredown.export import certificate, folder
from paredown.report.build import build
from paredown.report.page import render
from paredown.report.request import Request
from paredown.tracking.tracker import flatten
from paredown.tracking.view import CERTIFICATE

HOSTILE = '"><img src=x onerror=alert(1)></script><script>alert(2)</script>'


class Page(HTMLParser):
    """The elements of a page with their attributes, and the texts of its scripts."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.scripts: list[str] = []
        self.feed(text)
        self.close()

    def handle_starttag(self, tag, attrs) -> None:
        self.elements.append((tag, dict(attrs)))
        if tag == "script":
            self.scripts.append("")

    def handle_data(self, data) -> None:
        if self.cdata_elem == "script":
            self.scripts[-1] += data

    def of(self, tag: str) -> list[dict[str, str | None]]:
        return [attributes for name, attributes in self.elements if name == tag]


@pytest.fixture(scope="module")
def page(make_records) -> Page:
    records = make_records()
    params = dict(flatten(compose(["method=ssc", "dataset=cifar10", "speed_up=4"])))
    for seed in range(2):
        records.experiment("dense", seed, 91.0 + 8 * seed)
    records.experiment("ssc", 0, 90.0, 4, params=params, tags={"certified": "onnx"})
    records.experiment(HOSTILE, 0, 80.0, 2, params={"method": {"note": HOSTILE}})
    records.experiment(HOSTILE, 1, 80.0, 2, params={"method": {"note": "x"}})
    return Page(render(build(Request(output=str(records.folder), dataset="cifar10"))))


def test_nothing_is_fetched_and_nothing_is_run_but_its_own_scripts(page) -> None:
    assert {tag for tag, _ in page.elements}.isdisjoint({"img", "link", "iframe", "object", "embed", "base", "form"})
    assert [script for script in page.of("script") if "src" in script] == []
    names = {name for _, attributes in page.elements for name in attributes}
    assert not [name for name in names if name.startswith("on")]
    own = page.scripts[-1]
    assert "aria-sort" in own and not re.search(r"\beval\(|new Function|innerHTML|document\.write|https?:", own)
    assert all(re.match(r"#|http://paredown\.localhost:5000/#/", str(link["href"])) for link in page.of("a"))


def test_it_reads_on_a_phone_in_the_dark_and_on_paper(page) -> None:
    (viewport,) = [meta for meta in page.of("meta") if meta.get("name") == "viewport"]
    assert viewport["content"] == "width=device-width, initial-scale=1"
    assert page.of("html") == [{"lang": "en"}]


def test_each_table_can_be_sorted(page) -> None:
    tables = page.of("table")
    assert len(tables) >= 4 and all(table["class"] == "sortable" for table in tables)
    heads = [tag for tag, _ in page.elements if tag in ("table", "thead", "tbody")]
    assert heads == ["table", "thead", "tbody"] * len(tables)


def test_from_a_point_to_its_run_its_command_and_its_certificate(make_records) -> None:
    assert f"{folder.ARTIFACTS}/{certificate.NAME}" == CERTIFICATE
    records = make_records()
    params = dict(flatten(compose(["method=ssc", "dataset=cifar10", "speed_up=4"])))
    run = records.experiment("ssc", 0, 90.0, 4, params=params, tags={"certified": "onnx"})
    plain = records.experiment("ssc", 1, 90.0, 4, params=params | {"seed": 1})
    text = render(build(Request(output=str(records.folder), dataset="cifar10")))
    (place,) = re.findall(r'<a href="#(point-\d+)">ssc speed_up=4</a>', text)
    details = text[text.index(f'id="{place}"') :].partition("</details>")[0]
    assert f'/runs/{run}?workflowType=machine_learning">seed 0: ssc-0</a>' in details
    assert f"/runs/{run}/artifacts/export/certificate.json?" in details
    assert f"/runs/{plain}?" in details and f"/runs/{plain}/artifacts" not in details
    command = "python src/run.py method=ssc model=resnet20 dataset=cifar10 recipe=cifar10 seed=0 speed_up=4"
    assert f"<code>{command}" in details


def test_the_layers_are_data(page) -> None:
    (index,) = [i for i, script in enumerate(page.of("script")) if script.get("type") == "application/json"]
    layers = json.loads(page.scripts[index])
    assert any(HOSTILE in name for name in layers) and "<" not in page.scripts[index]


def test_intervals_of_an_accuracy_are_clipped(page) -> None:
    (figure,) = [script for script in page.scripts if '"name":"dense"' in script]
    above = [
        float(length) for found in re.findall(r'"error_y":\{"array":\[([^]]+)\]', figure) for length in found.split(",")
    ]
    assert max(above) == pytest.approx(5.0)  # of a mean of 95 over two seeds, whose interval is 51 wide on either side
    assert '"paper_bgcolor":"rgba(0,0,0,0)"' in figure

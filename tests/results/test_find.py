"""Finished experiments by folder: what is found, and what is told of those that are not finished."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace

import pytest

from paredown.core import blueprint
from paredown.core.errors import UserError
from paredown.results.find import _own_server, find
from paredown.tracking.journal import Journal
from paredown.tracking.sender import Sender

ARCHITECTURE = {
    "_target_": "paredown.models.cifar.resnet.cifar_resnet",
    "depth": 8,
    "num_classes": 10,
    "in_channels": 1,
}
CONFIG = {"tracking": {"uri": "off"}, "names": {"method": "ssc", "model": "resnet20", "dataset": "digits"}}


@pytest.fixture
def output(tmp_path: Path) -> Path:
    """An experiment of two stages, 'bb' the last, as execute leaves it."""
    network = blueprint.create(ARCHITECTURE, (1, 8, 8))
    states = [tmp_path / "store" / key[:2] / key for key in ("aaaa", "bbbb")]
    files = tmp_path / "experiments" / "one" / "tracking" / "files"
    for folder in (*states, files / "state"):
        folder.mkdir(parents=True)
        blueprint.save(network, folder)
        (folder / "stage.json").write_text("{}")
    (files / "config.json").write_text(json.dumps(CONFIG))
    (files / "plan.json").write_text(json.dumps([{"key": "aaaa"}, {"key": "bbbb"}]))
    (tmp_path / "experiments" / "one" / "result.json").write_text("{}")
    return tmp_path


def test_an_experiment_and_its_last_state_are_one(output: Path) -> None:
    by_folder = find(str(output / "experiments" / "one"), output)
    by_state = find(str(output / "store" / "bb" / "bbbb"), output)
    assert by_folder.name == by_state.name == "one" and by_state.names["method"] == "ssc" and by_state.run_id is None


def test_an_earlier_state_knows_its_images_and_is_not_the_experiment(output: Path) -> None:
    found = find(str(output / "store" / "aa" / "aaaa"), output)
    assert found.name == "aaaa" and found.config == CONFIG and found.run_id is None


def test_a_state_alone_is_a_network_without_images(output: Path, tmp_path: Path) -> None:
    (output / "store" / "aa" / "aaaa" / "stage.json").unlink()
    assert find(str(output / "store" / "aa" / "aaaa"), output).config is None


def test_what_is_not_finished_or_not_there_is_one_line(output: Path) -> None:
    (output / "experiments" / "one" / "result.json").unlink()
    (output / "store" / "aa" / "aaaa.unfinished").mkdir()
    for run, line in (
        (output / "experiments" / "one", "one never finished: run its command again"),
        (output / "store" / "aa" / "aaaa.unfinished", "never finished"),
        (output / "store", "holds neither a state nor records"),
        ("no/such/folder", "there is no such folder"),
        ("0123abcd", "nothing is recorded in"),
    ):
        with pytest.raises(UserError, match=line) as caught:
            find(str(run), output)
        assert "\n" not in str(caught.value)


def test_a_state_of_a_newer_version_is_refused_and_one_without_a_number_is_read(output: Path) -> None:
    path = output / "store" / "bb" / "bbbb" / blueprint.ARCHITECTURE
    data = json.loads(path.read_text())
    path.write_text(json.dumps(data | {"format": data["format"] + 1}))
    with pytest.raises(UserError, match=r"was written by a newer paredown, in format 3; this one reads format 2"):
        blueprint.read(path.parent)
    del data["format"]  # as every state was written before there was a number
    path.write_text(json.dumps(data))
    assert blueprint.read(path.parent).input_shape == (1, 8, 8)


@pytest.mark.parametrize("named", ["http://127.0.0.1:9", "sqlite:////tmp/elsewhere.db"])
def test_a_server_that_a_file_names_is_not_written_to(output: Path, named: str, caplog) -> None:
    folder = output / "experiments" / "one"
    config = folder / "tracking" / "files" / "config.json"
    config.write_text(json.dumps(CONFIG | {"tracking": {"uri": named}}))
    sent = Sender(Journal(folder), named)
    sent.path.write_text(json.dumps({"run_id": "abcd"}))
    found = find(str(folder), output)
    assert found.uri is None and f"add tracking.uri={named}" in caplog.text
    own = f"sqlite:///{output / 'mlflow.db'}"
    config.write_text(json.dumps(CONFIG | {"tracking": {"uri": own}}))
    assert _own_server(own, folder) == own


def test_what_a_sweep_recorded_of_its_workers_is_found_by_the_folder(output: Path) -> None:
    folder = output / "experiments" / "one"
    own = f"sqlite:///{output / 'mlflow.db'}"  # where the sweep sent it: the workers' own tracking.uri is off
    Sender(Journal(folder), own).path.write_text(json.dumps({"run_id": "abcd"}))
    found = find(str(folder), output)
    assert (found.uri, found.run_id) == (own, "abcd")


@pytest.mark.parametrize("name", ["/tmp/victim", "../up", "..", "a/b", "two\nlines"])
def test_a_run_s_name_on_a_server_is_no_path(output: Path, name: str, monkeypatch) -> None:
    state = output / "experiments" / "one" / "tracking" / "files"
    info, data = SimpleNamespace(status="FINISHED", run_id="abcd", run_name=name), SimpleNamespace(tags={})
    run = SimpleNamespace(info=info, data=data)
    client = SimpleNamespace(download_artifacts=lambda run_id, what, place: str(state / what))
    monkeypatch.setattr("paredown.results.find.connect", lambda uri: client)
    monkeypatch.setattr("paredown.results.find._matching", lambda client, run_id: [run])
    with pytest.raises(UserError, match="which is no name of a folder: rename it"):
        find("abcd", output, "http://127.0.0.1:9")
    run.info.run_name = "one"
    assert find("abcd", output, "http://127.0.0.1:9").name == "one"
    run.data.tags = {"folder": name}
    with pytest.raises(UserError, match="which is no name of a folder"):
        find("abcd", output, "http://127.0.0.1:9")
    run.info.run_name, run.data.tags = "ssc seed=0", {"folder": "ssc-0"}
    assert find("abcd", output, "http://127.0.0.1:9").name == "ssc-0"

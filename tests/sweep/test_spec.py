"""Sweep files: what they expand to, what the command line changes, and what a mistake in one says."""

from __future__ import annotations

import itertools

import pytest

from paredown.core.config import compose, compose_all
from paredown.core.errors import UserError
from paredown.core.places import SWEEPS
from paredown.sweep.planning import plan
from paredown.sweep.spec import load, merged, points

GRID = """
grid: {sparsity: [0.8, 0.9], latency.batch: [1, 2, 4]}
points: [[method=dense, sparsity=null]]
seeds: [0, 1]
"""


def test_a_grid_and_points_for_every_seed(written) -> None:
    found = [set(point.overrides) for point in points(load(written(GRID)))]
    product = [{f"sparsity={s}", f"latency.batch={b}"} for s, b in itertools.product((0.8, 0.9), (1, 2, 4))]
    expected = [words | {f"seed={seed}"} for seed in (0, 1) for words in [*product, {"method=dense", "sparsity=null"}]]
    assert len(found) == 14 and all(words <= own for words, own in zip(expected, found, strict=True))


def test_a_protocol_adds_its_overrides(written) -> None:
    text = "protocols: {short: [recipe.epochs=1], full: [recipe.epochs=9, seed=4, model.depth=14]}"
    (short,), (full,) = (list(points(load([*written(text), *more]))) for more in ([], ["protocol=full"]))
    assert "recipe.epochs=1" in short.overrides and "model.depth=14" not in short.overrides
    assert {"recipe.epochs=9", "seed=4", "model.depth=14"} <= set(full.overrides)
    assert {word.partition("=")[0] for word in load(written(text)).overrides} <= {
        word.partition("=")[0] for word in full.overrides
    }
    (typed,) = points(load([*written(text), "protocol=full", "recipe.epochs=5"]))
    assert "recipe.epochs=5" in typed.overrides
    names = [load([*written(text), *more]).name for more in ([], ["protocol=full"])]
    assert names == ["tiny", "tiny-full"]  # runs of two protocols are not one sweep


def test_labels_say_what_sets_an_experiment_apart(written) -> None:
    labels = [point.label for point in points(load(written(GRID)))]
    assert labels[0] == "sparsity=0.8 latency.batch=1 seed=0" and len(set(labels)) == 14


def test_the_command_line_wins(written) -> None:
    sweep = load([*written(GRID), "latency.batch=8", "seeds=[5]", "resources.cpus=2", "cluster=ray"])
    found = list(points(sweep))
    assert {point.overrides.count("latency.batch=8") for point in found} == {1}
    assert {word for point in found for word in point.overrides if word.startswith("seed")} == {"seed=5"}
    assert (sweep.resources.cpus, sweep.cluster.kind, sweep.cluster.address) == (2, "ray", "auto")


def test_values_of_every_kind_reach_hydra(written) -> None:
    text = "grid: {latency.threads: [null, 2], recipe.nesterov: [true], recipe.milestones: [[0.3, 0.6]]}"
    configs = list(compose_all([point.overrides for point in points(load(written(text)))]))
    assert [config["latency"]["threads"] for config in configs] == [None, 2]
    assert configs[0]["recipe"]["nesterov"] is True and configs[0]["recipe"]["milestones"] == [0.3, 0.6]


@pytest.mark.parametrize(
    "words",
    [
        ["dataset=digits", "method=ssc", "sparsity=0.8", "seed=3", "recipe.milestones=[0.3]"],
        ["dataset=digits", "debug=fast", "model=vgg19", "recipe=cifar10", "recipe.learning_rate=1e-2"],
        ["experiment=ssc_vgg19_cifar10", "output='/tmp/a b'", "model.weights=null"],
        ["recipe.epochs=3", "dataset@transfer.dataset=digits", "transfer.dataset.fraction=0.1"],
    ],
)
def test_composing_many_equals_composing_one(words) -> None:
    others = [[*words, "seed=7"], words, [*words, "dataset.fraction=0.5"]]
    for overrides, config in zip(others, compose_all(others), strict=True):
        assert config == compose(overrides)


def test_of_each_key_the_last_word_counts() -> None:
    assert merged(["a=1", "b=2"], ["+a=3"], ["c=1"]) == ("+a=3", "b=2", "c=1")


MISTAKES = {
    ("", "contrls=true"): "unknown key 'contrls': did you mean controls",
    ("", "resorces.cpus=2"): "unknown key 'resorces': did you mean resources",
    ("", "sweep=no_such"): "no sweep 'no_such'",
    ("", "readme_front"): "cannot read 'readme_front': write sweep=readme_front",
    ("points: [[progress=off], [seed=1]]",): "a sweep has one progress, this one asks for auto, off",
    ("", "progress=bar"): "progress='bar'",
    ("gird: {sparsity: [0.9]}",): "unknown setting 'gird': did you mean grid?",
    ("grid: {sparcity: [0.9]}", "method=ssc"): "sparcity=0.9: unknown key 'sparcity': did you mean sparsity?",
    ("grid: {sparsity: 0.9}",): "grid",
    ("grid: {sparsity: []}",): "grid.sparsity=[] (at least one value)",
    ("grid: [1",): "tiny.yaml",
    ("seeds: [a]",): "seeds.0='a'",
    ("resources: {cpu: 2}",): "resources.cpu is no setting of Resources: did you mean cpus or gpus?",
    ("", "resources.cpus=0"): "resources.cpus=0",
    ("retries: -1", "stop.grace=-1"): "stop.grace=-1 (at least 0); retries=-1 (at least 0)",
    ("points: [[seed=1, controls=randon]]",): "controls=randon: did you mean random?",
    ("protocols: {short: [seed=1], full: [seed=2]}", "protocol=fll"): "protocol='fll' (did you mean full?",
    ("", "protocol=full"): "protocol='full' (this sweep has none)",
    ("protocols: {short: [trust=x]}",): "trust=x: a file cannot set trust",
    ("controls: [randon]",): "controls=['randon']",
    ("resources: {cpus: 2}", "resources.gpus=-1"): "resources.gpus=-1 (at least 0)",
    ("", "cluster=slurm"): "cluster.kind='slurm'",
    ("", "cluster.adress=x"): "cluster.adress is no setting of Cluster: did you mean address?",
    ("grid: {sparsity: [0.8, 0.999]}", "method=ssc"): "sparsity=0.999:",
    ("", "trainer=ddp"): "resources.workers",
    ("grid: {output: [/tmp/a, /tmp/b]}",): "a sweep has one output, this one asks for /tmp/a, /tmp/b",
    ("grid: {output: ['s3://b/x']}",): "output=s3://b/x is no folder: name it as store=",
    ("", "store=sss://b/x"): "store=sss://b/x is no address: ValueError: Protocol not known: sss",
    ("metrics: {accuracy: final/topp1}",): "metrics.accuracy='final/topp1' (no such metric: did you mean final/top1",
    ("", "metrics.cost=cost/mac"): "metrics.cost='cost/mac' (no such metric: did you mean cost/macs",
    ("stop: {rule: median, metric: final/top1}",): "stop.metric='final/top1' (of a finished run, not recorded",
    (
        "",
        "stop.rule=asha",
        "stop.metric=test/topp1",
    ): "stop.metric='test/topp1' (no such metric: did you mean test/top1",
    (
        "points: [[sparsity=0.9, sparsity=0.95]]",
    ): "points.0=['sparsity=0.9', 'sparsity=0.95'] (sparsity is given twice)",
    ("points: [[seed=1], [seed=1, ++seed=2]]",): "points.1=['seed=1', '++seed=2'] (seed is given twice)",
    ("grid: {sparsity: [0.8, 0.9], +sparsity: [0.95]}",): "grid=['sparsity', '+sparsity'] (sparsity is given twice)",
    ("points: [[method=dense, seed=3]]\nseeds: [0, 1]",): "points.0=['method=dense', 'seed=3'] (no seed beside seeds",
    ("grid: {seed: [3]}", "seeds=[0]"): "grid=['seed'] (no seed beside seeds",
    (
        "protocols: {x/../../../tmp/evil: [seed=1]}",
        "protocol=x/../../../tmp/evil",
    ): "protocols='x/../../../tmp/evil' (let",
    ("protocols: {it's: [seed=1]}",): 'protocols="it\'s" (letters, digits',
    ("", "resources.across_nodes=true"): "resources.across_nodes=True (for 2 resources.workers or more)",
}


@pytest.mark.parametrize("mistake", MISTAKES, ids=" ".join)
def test_a_mistake_is_one_line(mistake, written, tmp_path) -> None:
    text, *more = mistake
    words = written(text)
    if "output" in text:
        words.pop()
    if any(word.startswith("sweep=") or word == "readme_front" for word in more):
        words = words[1:]
    with pytest.raises(UserError) as raised:
        plan(load([*more, *words]))
    assert MISTAKES[mistake] in str(raised.value) and "\n" not in str(raised.value)


@pytest.mark.parametrize("name", ["it's", 'a"b', ".hidden", "-x", "a;b", "a\nb", "x" * 101])
def test_a_file_whose_name_is_no_name_of_a_folder_is_refused(written, name: str) -> None:
    with pytest.raises(UserError, match=r"name=.*\(letters, digits"):
        load(written("", name))


def test_controls_of_a_point_add_up_and_a_name_may_have_spaces(written) -> None:
    (point,) = points(load(written("points: [[seed=1, controls=random, controls=uniform]]", "a sweep+1.v2")))
    assert set(point.controls) == {"random", "uniform"}


def test_hydras_own_ways_to_write_a_key_are_let_through(written) -> None:
    words = ["dataset@transfer.dataset=digits", "+trainer.x=1", "~debug", "hydra.job.name=a", "model/a=b"]
    assert load([*words, *written("")]).typed[: len(words)] == tuple(words)


@pytest.mark.parametrize("path", sorted(SWEEPS.glob("*.yaml")), ids=lambda path: path.stem)
def test_every_sweep_in_the_folder_composes(path) -> None:
    found = list(points(load([f"sweep={path.stem}"])))
    assert found and len({point.overrides for point in found}) == len(found)
    for config in compose_all([point.overrides for point in found]):
        assert config["names"]["method"]


def test_a_published_table_is_a_sweep_of_its_rows() -> None:
    sweep = load(["reproduce=svd_training/table3", "model=resnet20", "debug=fast", "resources.cpus=2"])
    assert sweep.name == "reproduce-svd_training-table3-resnet20" and sweep.seeds == (0, 1, 2)
    every = list(points(sweep))
    assert len(every) == 18 * 3 and sweep.resources.cpus == 2
    assert all("debug=fast" in point.overrides and "model=resnet20" in point.overrides for point in every)
    rows = [word for point in every[:18] for word in point.overrides if word.startswith("reproduce=")]
    assert rows == [f"reproduce=svd_training/table3/{number}" for number in range(1, 19)]
    for words, says in ((["model=vgg19"], "no row of model 'vgg19'"), (["reproduce=nothing"], "no published row")):
        with pytest.raises(UserError, match=says):
            load(["reproduce=svd_training/table3", *words])


def test_a_row_that_a_file_names_is_that_row(tmp_path) -> None:
    path = tmp_path / "mine.yaml"
    path.write_text("points: [[reproduce=ssc/table1/125], [reproduce=svd_training/table6/6, recipe.epochs=3]]\n")
    first, second = compose_all([point.overrides for point in points(load([f"sweep={path}", "seed=4"]))])
    assert (first["names"]["method"], first["sparsity"], first["seed"]) == ("ssc", 0.9, 4)
    assert (second["names"]["recipe"], second["recipe"]["epochs"]) == ("trp", 3)
    assert second["dataset"]["validation"] == 0 and second["method"]["select"] == "trp"

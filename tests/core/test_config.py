"""The composed configuration: what Hydra makes of overrides, and every mistake in one line."""

from __future__ import annotations

import json
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from paredown.core.config import CONF, compose, compose_all
from paredown.core.errors import UserError
from paredown.core.words import as_typed, for_shell, root, roots
from paredown.experiment.prepare import prepare

GROUPS = {path.name: sorted(f.stem for f in path.glob("*.yaml")) for path in CONF.iterdir() if path.is_dir()}


def test_the_configuration_is_plain_data_that_names_its_choices() -> None:
    found = compose(["method=ssc", "model=resnet32", "sparsity=0.95"])
    assert json.loads(json.dumps(found)) == found
    assert found["names"] == {
        "method": "ssc", "model": "resnet32", "dataset": "cifar10", "recipe": "cifar10", "debug": None
    }  # fmt: skip
    assert (found["sparsity"], found["speed_up"], found["model"]["depth"]) == (0.95, None, 32)


@pytest.mark.parametrize("dataset", [name for name in GROUPS["dataset"] if name in GROUPS["recipe"]])
def test_a_data_set_brings_its_recipe_and_another_may_be_taken(dataset: str) -> None:
    assert compose([f"dataset={dataset}"])["names"]["recipe"] == dataset
    assert compose([f"dataset={dataset}", "recipe=trp"])["names"]["recipe"] == "trp"


@pytest.mark.parametrize(
    ("key", "value"),
    [
        *(("method.g", 4), ("model.width", 2), ("recipe.epochs", 3), ("dataset.fraction", 0.5), ("trainer.threads", 1)),
        *(("latency.batch", 8), ("seed", 7), ("output", "elsewhere"), ("deploy", "auto"), ("store", "s3://bucket/x")),
    ],
)
def test_an_override_arrives(key: str, value: object) -> None:
    found: object = compose(["method=ssc", f"{key}={value}"])
    for part in key.split("."):
        found = found[part]  # type: ignore[index]
    assert found == value


def test_many_are_composed_as_one_is() -> None:
    lists = [
        *(["method=ssc", f"sparsity={value}", f"seed={seed}"] for value in (0.8, 0.9) for seed in (0, 1)),
        ["method=ssc", "model=vgg19", "dataset=cifar100", "recipe.epochs=2"],
        ["method=svd_training", "method.finetune={epochs:60,learning_rate:0.01,milestones:[0.5]}"],
        *(["model.weight_decay=0.5", *words] for words in ([], ["recipe.weight_decay=1e-3"])),  # the recipe takes it
        *([f"output={name}", "seed=2"] for name in ("one", "two")),  # MLflow's address depends on it
        ["dataset.root=${output}/images", "output=three", "tracking.uri=off"],
        ["recipe.milestones=[0.1]", "seed=null", "sparsity=0.5", "sparsity=0.7"],
        ["recipe.milestones=0.1", "trainer.threads=2", "deploy=auto", "latency.batch=8.0", "trust=null"],
        ["method=svd_training", "method.finetune.epochs=2", "method.finetune={epochs:3}"],
        ["method=svd_training", "method.finetune={epochs:3}", "method.finetune.epochs=2"],
        ["model=torchvision", "model.name=resnet18", "recipe.precision=32", "dataset.mean=[0.5]"],
    ]
    assert list(compose_all(lists)) == [compose(words) for words in lists]


def test_one_composed_configuration_changes_no_other() -> None:
    first, second = compose_all([["seed=1"], ["seed=2"]])
    first["recipe"]["epochs"] = -1
    assert second["recipe"]["epochs"] != -1 and (first["seed"], second["seed"]) == (1, 2)


MISTAKES = {
    ("methd=ssc",): "unknown key 'methd': did you mean method",
    ("method=scc",): "no method 'scc': did you mean ssc",
    ("model=resnet21",): "no model 'resnet21': did you mean resnet",
    ("method=ssc", "method.gg=3"): "unknown key 'gg' in method: did you mean g",
    ("recipe.epoch=3",): "unknown key 'epoch' in recipe: did you mean epochs",
    ("sparsity 0.9",): "write key=value",
    ("seed=[",): "cannot read override 'seed=[': write key=value, and close every bracket and quote",
    ("dataset.name=été",): "text with special characters is quoted, for the shell too: \"dataset.name='été'\"",
    ("dataset.name=a(b",): "text with special characters is quoted, for the shell too: \"dataset.name='a(b'\"",
    ("dataset=digits", "dataset.augment.flips=true"): "unknown key 'flips' in dataset.augment: did you mean flip",
}


@pytest.mark.parametrize("words", MISTAKES, ids=" ".join)
def test_a_mistake_is_one_line_with_what_would_be_right(words: tuple[str, ...]) -> None:
    with pytest.raises(UserError) as raised:
        compose(list(words))
    assert MISTAKES[words] in str(raised.value) and "\n" not in str(raised.value)


FOLDERS = ["2024_01", "1e3", "0x10", "~/a b", "a=b", "cats(1)", "été", "50%", "run #1", "what?", "it's", "true", "[a]"]


FOLDERS += ["/data/x,y", "a: b", "{}", '"q', "@x", "日本"]


def test_a_folder_is_the_one_that_was_typed() -> None:
    keys = ("output", "dataset.root", "model.weights", "tracking.experiment")
    lists = [[f"{key}={folder}" for key in keys] for folder in FOLDERS]
    again = [compose(list(map(as_typed, lists[0]))), *map(compose, lists[:2])]
    for folder, config in zip([*FOLDERS, *FOLDERS[:1], *FOLDERS[:2]], [*compose_all(lists), *again], strict=True):
        found = (config["dataset"]["root"], config["model"]["weights"], config["tracking"]["experiment"])
        assert (config["output"], *found) == (folder,) * 4
        assert config["tracking"]["uri"] == f"sqlite:///{folder}/mlflow.db"


def test_what_is_quoted_null_or_an_interpolation_stays() -> None:
    words = ["output='a b'", "model.weights=null", "dataset.root=${output}/images", "store=s3://bucket/a\\=b"]
    config = compose(words)
    assert (config["output"], config["model"]["weights"], config["store"]) == ("a b", None, "s3://bucket/a=b")
    assert config["dataset"]["root"] == "a b/images"


def test_a_mistake_among_many_is_the_same_line() -> None:
    words = ["method=ssc", "method.gg=3"]
    lines = []
    for run in (lambda: compose(words), lambda: list(compose_all([["method=ssc"], words]))):
        with pytest.raises(UserError) as raised:
            run()
        lines.append(str(raised.value))
    assert lines[0] == lines[1]


def test_the_parts_that_an_override_may_begin_with() -> None:
    known = roots()
    assert {"method", "model", "dataset", "sparsity", "seed", "latency", "output"} <= set(known)
    assert [root(word) for word in ("method.g=3", "+x=1", "~debug", "dataset@transfer.dataset=a", "seed=1")] == [
        "method", "x", "debug", "dataset", "seed"
    ]  # fmt: skip


def test_the_configuration_lies_beside_the_sources() -> None:
    assert (CONF / "config.yaml").is_file() and Path(__file__).parents[2] / "conf" == CONF


def test_threads_compose_in_turn() -> None:
    """A sweep's report composes commands while its driver composes what a search proposes."""
    asked = [[f"method={method}", f"seed={seed}"] for seed, method in enumerate(("ssc", "dense", "snip", "zhang"))]
    with ThreadPoolExecutor(4) as threads:
        found = list(threads.map(compose, asked))
    assert [(one["names"]["method"], one["seed"]) for one in found] == [
        ("ssc", 0),
        ("dense", 1),
        ("snip", 2),
        ("zhang", 3),
    ]


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (b"_target_: mine.Mine\nleast: [0\n", r"a yaml file .* cannot be read: .*mine\.yaml"),
        (b"_target_: mine.Mine\n\tleast: 0\n", r"a yaml file .* cannot be read: .*mine\.yaml"),
        (b'!!python/object/apply:os.system ["true"]\n', r"a yaml file .* cannot be read: .*tag:yaml"),
        (
            "a: é\n".encode("latin-1"),
            r"a yaml file of the configuration cannot be read: 'utf-8' .* in .*mine\.yaml",
        ),
    ],
)
def test_an_added_file_that_is_no_yaml_is_one_line(text: bytes, said: str, tmp_path: Path) -> None:
    (tmp_path / "method").mkdir()
    (tmp_path / "method/mine.yaml").write_bytes(text)
    with pytest.raises(UserError, match=said):
        compose([f"hydra.searchpath=[{tmp_path}]", "method=mine"])


def test_what_an_added_model_lacks_is_named(tmp_path: Path) -> None:
    (tmp_path / "model").mkdir()
    text = "_target_: paredown.models.cifar.resnet.cifar_resnet\ndepth: 8\n"
    (tmp_path / "model/mine.yaml").write_text(text)
    words = [f"hydra.searchpath=[{tmp_path}]", "model=mine", "dataset=digits", "debug=fast", f"output={tmp_path}"]
    with pytest.raises(UserError, match="model has no weight_decay, which others refer to"):
        compose(words)
    (tmp_path / "model/mine.yaml").write_text(f"{text}weight_decay: 0.1\n")
    assert [step.stage.name for step in prepare(compose(words)).steps] == ["train"]  # weights: null is the default


@pytest.mark.parametrize(
    "word", ["output=a'b", "output='a\\'b'", "tracking.uri=http://h:1", "output=a=b", "model.g=1", "sparsity=0.9"]
)
def test_a_word_for_the_shell_is_taken_as_it_was(word: str) -> None:
    assert as_typed(for_shell(as_typed(word))) == as_typed(word)

"""The command `paredown`: the same commands under one name, lists, explanations and completion, quick to answer."""

from __future__ import annotations

import resource
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from paredown.cli import choices, completion, listing, run
from paredown.cli.names import COMMANDS
from paredown.core.config import compose
from paredown.core.errors import UserError
from paredown.core.places import CONF
from paredown.core.words import sweep_files, with_config_dirs

ROOT = Path(__file__).parents[2]
HEAVY = """import atexit, sys
atexit.register(lambda: print('HEAVY', sorted({'torch', 'ray', 'mlflow'} & {*sys.modules})))
"""


def paredown(*words: str) -> subprocess.CompletedProcess[str]:
    code = f"{HEAVY}sys.argv = ['paredown', *{words!r}]; from paredown.__main__ import main; main()"
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT, check=False)


QUICK = [
    *(["--help"], ["--version"], ["run", "--help"], ["sweep", "--help"], ["run", "method=zhang", "--help"]),
    *(
        ["list", "methods"],
        ["list", "sweeps"],
        ["explain", "method=ssc"],
        ["complete", "run", "method="],
        ["check", "--help"],
    ),
]


@pytest.mark.parametrize("words", QUICK, ids=" ".join)
def test_looking_imports_nothing_heavy(words: list[str]) -> None:
    before = resource.getrusage(resource.RUSAGE_CHILDREN).ru_utime
    done = paredown(*words)
    assert done.returncode == 0 and "HEAVY []" in done.stdout and len(done.stdout) > 15, done.stderr
    spent = resource.getrusage(resource.RUSAGE_CHILDREN).ru_utime - before
    assert spent < 2  # seconds of a processor, whoever else uses it; 0.1 to 0.6 measured


def test_every_command_has_a_help_under_the_name_that_was_typed() -> None:
    for name in COMMANDS:
        done = paredown(name, "--help")
        assert done.returncode == 0 and "src/" not in done.stdout.replace("src/paredown", ""), name
    assert "paredown run method=ssc" in paredown("run", "--help").stdout


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["rnu"], "no command 'rnu': did you mean run"),
        (["--versoin"], "no command '--versoin': did you mean --version"),
        (["sweep", "sweep=readme_front", "--pln"], "unknown option '--pln': did you mean --plan"),
        (["list", "method"], "cannot list 'method': did you mean methods"),
        (["list"], "paredown list methods"),
        (["explain", "method=zang"], "no method 'zang': did you mean zhang"),
        (["explain", "colour=red"], "nothing is chosen as colour="),
        (["explain", "zang"], "nothing is called 'zang': did you mean zhang"),
        (["completion", "tcsh"], "completion for which shell?"),
        (["run", "--config-dir", "/no/such", "method=ssc"], "there is no folder '/no/such'"),
        (["run", "--config-dir"], "--config-dir of which folder?"),
    ],
    ids=" ".join,
)
def test_a_mistake_is_one_line(words: list[str], said: str) -> None:
    done = paredown(*words)
    assert done.returncode == 2
    if words == ["list"]:  # no words at all: the help
        assert said in done.stdout and not done.stderr
    else:
        assert said in done.stderr and len(done.stderr.splitlines()) == 1


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["leaderboard.py", "--output", "nowhere"], "nothing is recorded in"),
        (["methods.py", "--check"], "takes no words, got '--check'"),
    ],
    ids=lambda words: words[0] if isinstance(words, list) else "",
)
def test_a_script_answers_a_mistake_in_one_line(words: list[str], said: str, tmp_path: Path) -> None:
    command = [sys.executable, str(ROOT / "scripts" / words[0]), *words[1:]]
    done = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path, check=False)
    assert done.returncode == 2 and said in done.stderr and len(done.stderr.splitlines()) == 1


def test_lists_are_what_the_configuration_has() -> None:
    assert set(listing.names("methods")) == {path.stem for path in (CONF / "method").glob("*.yaml")}
    assert all(listing.names("methods").values()), "every yaml begins with a line that says what it is"
    assert listing.names("published")["svd_training/table3"] == "76 rows"
    sweeps = listing.names("sweeps")
    described = {
        name: str(yaml.safe_load(path.read_text()).get("description")) for name, path in sweep_files([]).items()
    }
    assert sweeps == described and {"readme_front", "leaderboard_cifar10"} <= set(sweeps)


@pytest.mark.parametrize("method", sorted(path.stem for path in (CONF / "method").glob("*.yaml")))
def test_every_hyperparameter_is_explained_with_its_default(method: str) -> None:
    rows = choices.settings("method", CONF / "method" / f"{method}.yaml")
    values = compose([f"method={method}"])["method"]
    assert {row.key.split(".")[1] for row in rows} == values.keys() - {"_target_"}
    assert not [row.key for row in rows if not row.meaning and row.key.count(".") == 1 and row.default]


@pytest.mark.parametrize(
    ("word", "said"),
    [
        ("zhang", "method=zhang\n"),
        ("cifar100", "dataset=cifar100\n"),
        ("seed", "seed=0  of all that is random; several seeds: seed=1,2,3 --multirun"),
        ("--seed=3", "seed=0  "),
        ("recipe.epochs", "recipe.epochs=160"),
        ("budget", "budget.reference=160  epochs of the training"),
        (
            "dataset.fraction",
            "dataset.fraction=1.0  part of the training images",
        ),  # of the file that cifar10 begins with
        ("tracking=local", "tracking.uri=sqlite:///${output}/mlflow.db"),
        ("debug=fast", "\n  recipe.epochs=2\n"),  # as it is typed: recipe, not debug.recipe
        ("trainer=ddp", "trainer.sync_batchnorm=false "),
        ("method.decay", "method.decay=1e-2  its weight"),
    ],
)
def test_a_name_or_a_setting_alone_is_explained(word: str, said: str) -> None:
    assert said in "\n".join(choices.explained(word))


def test_an_explanation_holds_the_published_range_of_the_card() -> None:
    text = choices.describe("method", "svd_training")
    assert "method.decay=0.03" in text and "lambda_s" in text and "Hoyer 0.001 to 0.1 on CIFAR-10" in text
    assert "method=svd_training model=resnet20" in text


@pytest.mark.parametrize("choice", ["dataset=cifar10", "dataset=folder", "recipe=svd_training_paper", "trainer=ddp"])
def test_every_setting_of_a_choice_is_explained_with_its_default(choice: str) -> None:
    group, _, name = choice.partition("=")
    rows = {row.key: row.default for row in choices.settings(group, CONF / group / f"{name}.yaml")}
    values = compose([choice])[group]
    assert {key.split(".")[1] for key in rows} == values.keys() - {"_target_"}
    for key, value in values.items():
        if key != "_target_" and isinstance(value, int | float):
            assert yaml.safe_load(rows[f"{group}.{key}"]) == value or float(rows[f"{group}.{key}"]) == value


def test_a_file_of_ones_own_is_explained_with_what_it_begins_with(conf: Path) -> None:
    rows = {row.key: row.default for row in choices.settings("recipe", conf / "recipe" / "mine.yaml")}
    assert rows["recipe.epochs"] == "3" and rows["recipe.momentum"] == "0.9"


@pytest.mark.parametrize(
    ("texts", "line"),
    [
        ({"mine": "defaults: [other]", "other": "defaults: [mine]"}, "lead back to itself"),
        ({"mine": "defaults: [mine]"}, "lead back to itself"),
        ({"mine": "defaults: [other]", "other": "a: ["}, "other.yaml cannot be read"),
        ({"mine": "defaults: [other]", "other": "\udc86"}, "other.yaml cannot be read"),
    ],
)
def test_a_damaged_file_that_a_choice_begins_with_is_one_line(tmp_path: Path, texts: dict[str, str], line: str) -> None:
    (tmp_path / "recipe").mkdir()
    for name, text in texts.items():
        (tmp_path / "recipe" / f"{name}.yaml").write_bytes(text.encode(errors="surrogateescape"))
    for word in ("recipe=mine", "recipe.epochs"):
        with pytest.raises(UserError, match=line):
            choices.explained(word, ["recipe=mine", f"hydra.searchpath=[file://{tmp_path}]"])


@pytest.mark.parametrize("defaults", ["3", "[../../secret, /etc/secret, {recipe: cifar10}, null, 3]"])
def test_other_defaults_are_not_followed(tmp_path: Path, defaults: str) -> None:
    (tmp_path / "recipe").mkdir()
    (tmp_path.parent / "secret.yaml").write_text("hidden: 1")
    path = tmp_path / "recipe" / "mine.yaml"
    path.write_text(f"defaults: {defaults}\nepochs: 3\n")
    assert [row.key for row in choices.settings("recipe", path)] == ["recipe.epochs"]


@pytest.fixture
def conf(tmp_path: Path) -> Path:
    """A folder of one's own: a method, a recipe and a sweep."""
    for group, text in {
        "method": (CONF / "method" / "ssc.yaml").read_text().replace("g: null", "g: 4"),
        "recipe": (CONF / "recipe" / "digits.yaml").read_text().replace("epochs: 30", "epochs: 3"),
        "sweeps": "overrides: [method=mine, dataset=digits]\nseeds: [0, 1]\n",
    }.items():
        (tmp_path / "my conf" / group).mkdir(parents=True)
        (tmp_path / "my conf" / group / "mine.yaml").write_text(text)
    return tmp_path / "my conf"


def test_a_folder_of_ones_own_is_searched(conf: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from paredown.sweep.spec import load, points

    monkeypatch.chdir(conf.parent)
    for typed in (["--config-dir", "my conf"], ["--config-dir=my conf"], ["-cd", str(conf)]):
        words = with_config_dirs([*typed, "method=mine", "recipe=mine"])
        found = compose(words)
        assert (found["method"]["g"], found["recipe"]["epochs"], found["names"]["method"]) == (4, 3, "mine")
    run._check_words(words)  # what Hydra's command line then gets
    every = list(points(load(with_config_dirs(["--config-dir", "my conf", "sweep=mine"]))))
    assert [compose(list(point.overrides))["method"]["g"] for point in every] == [4, 4]
    assert "mine" in choices.every(words)["method"] and "mine" in listing.names("sweeps", words)
    found = completion.candidates(["run", "--config-dir", str(conf), "method=m"])
    assert found == ["method=magnitude", "method=mine", "method=mlprune"]
    with pytest.raises(UserError, match="did you mean mine"):
        compose([*words, "method=minn"])


HOSTILE = {
    "hydra:\n  callbacks:\n    x: {_target_: os.system}\n": "sets hydra.callbacks",
    "hydra:\n  job:\n    env_set: {PATH: x}\n": "sets hydra.job.env_set",
    "hydra:\n  sweeper: {_target_: os.system}\n": "sets hydra.sweeper",
    "trust: [os]\n": "comes from a yaml file",
    **{
        f"tracking:\n  experiment: '{text}'\n": "reads the environment"
        for text in (
            "${oc.env:HOME}",
            "${ oc.env:HOME}",
            "${oc.env :HOME}",
            "${oc.${k}:HOME}'\nk: 'env",
            "a${oc.decode:${k}}'\nk: 'x",
            "\\\\${oc.env:HOME}",
            "${k}'\nk: '${ oc.env :HOME}",
        )
    },
}


def test_a_search_path_that_cannot_be_read_is_one_line() -> None:
    with pytest.raises(UserError, match=r"cannot read hydra\.searchpath=\[a: write hydra\.searchpath="):
        sweep_files(["hydra.searchpath=[a"])


def test_a_plugins_sweep_does_not_replace_the_projects(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "readme_front.yaml").write_text("seeds: [7]")
    (tmp_path / "theirs.yaml").write_text("seeds: [7]")
    found = {"sweeps": [tmp_path], "conf": []}
    monkeypatch.setattr("paredown.core.words.plugin_folders", found.__getitem__)
    assert sweep_files([])["theirs"].parent == tmp_path and sweep_files([])["readme_front"].parent != tmp_path


@pytest.mark.parametrize("text", HOSTILE)
def test_a_file_of_the_search_path_cannot_make_hydra_call_anything(text: str, conf: Path) -> None:
    (conf / "experiment").mkdir()
    (conf / "experiment" / "x.yaml").write_text(f"# @package _global_\n{text}")
    with pytest.raises(UserError, match=HOSTILE[text]):
        compose(with_config_dirs(["--config-dir", str(conf), "experiment=x"]))


def test_completion() -> None:
    assert completion.candidates(["ex"]) == ["export", "explain"]
    assert completion.candidates(["run", "method=zh"]) == ["method=zhang"]
    assert completion.candidates(["run", "method=zhang", "method.pos"]) == ["method.positions="]
    assert completion.candidates(["sweep", "sweep=readme"]) == ["sweep=readme_front"]
    assert completion.candidates(["list", "pub"]) == ["published"]
    assert "speed_up=" in completion.candidates(["run", "method=zhang", ""])


@pytest.mark.parametrize("line", ["paredown run method=zhang model=resnet5", "paredown ru"])
def test_bash_takes_the_completion(line: str, tmp_path: Path) -> None:
    script = f"""paredown() {{ {sys.executable} -m paredown "$@"; }}
{completion.SCRIPTS["bash"]}
COMP_LINE="{line}"; COMP_POINT=${{#COMP_LINE}}; _paredown; echo "${{COMPREPLY[@]}}" """
    done = subprocess.run(["bash", "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout.split() == (["run"] if "=" not in line else ["resnet50", "resnet56", "resnet56_bottleneck"])

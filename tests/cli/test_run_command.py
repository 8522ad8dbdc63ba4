"""The command line as a person meets it: quick help, one line for a mistake, exit codes."""

from __future__ import annotations

import json
import logging
import re
import runpy
import subprocess
import sys
import time
from pathlib import Path

import pytest
import yaml

from paredown.cli import run
from paredown.core.config import compose
from paredown.core.errors import UserError
from paredown.experiment.prepare import prepare
from paredown.published.settings import commands, only_row

ROOT = Path(__file__).parents[2]
RUN = ROOT / "src" / "run.py"
QUICK = """
import atexit, runpy, sys
heavy = ("torch", "pytorch_lightning", "ray", "mlflow")
atexit.register(lambda: print("HEAVY", [name for name in heavy if name in sys.modules]))
sys.argv = {argv!r}
runpy.run_path({run!r}, run_name="__main__")
"""


def quick(*arguments: str) -> str:
    code = QUICK.format(argv=["run.py", *arguments], run=str(RUN))
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT, check=True).stdout


@pytest.mark.parametrize("arguments", [("--help",), ("--cfg", "job"), ("--cfg", "job", "method=ssc", "sparsity=0.9")])
def test_looking_imports_nothing_heavy(arguments: tuple[str, ...]) -> None:
    started = time.perf_counter()
    assert "HEAVY []" in quick(*arguments)
    assert time.perf_counter() - started < 5  # 0.4 s measured; the claim is benchmarks/start.py's


def test_help_teaches_with_examples() -> None:
    text = quick("--help")
    assert text.count("python src/run.py") >= 8 and "Exit codes" in text
    methods = re.search(r"^  method +(.*?)^  model ", text, re.DOTALL | re.MULTILINE)
    assert methods and {"dense", "ssc", "zhang"} < set(re.split(r",\s+", methods[1].strip()))


MISTAKES = {
    ("method=scc",): "no method 'scc': did you mean ssc",
    ("model=resnet33",): "no model 'resnet33': did you mean resnet32",
    ("method=SSC",): "no method 'SSC': did you mean ssc",
    ("method=ssc", "debug=true"): "no debug True: known: fast",
    ("model=20",): "no model 20: known: custom, ",
    ("dataset=digit",): "no dataset 'digit': did you mean digits",
    ("sparcity=0.9",): "unknown key 'sparcity': did you mean sparsity",
    ("epochs=10",): "unknown key 'epochs': did you mean budget.epochs or recipe.epochs?",
    ("lr=0.1",): "unknown key 'lr': did you mean recipe.learning_rate?",
    ("method=ssc", "g=8"): "unknown key 'g': did you mean method.g?",
    ("method=ssc", "method.gg=3"): "unknown key 'gg' in method",
    ("recipe.epoch=3",): "unknown key 'epoch' in recipe: did you mean epochs",
    ("dataset=digits", "method=ssc", "sparsity=1.5"): "sparsity=1.5 is not between 0 and 1",
    ("dataset=digits", "method=ssc", "sparsity=a"): "sparsity='a' (a number",
    ("dataset=digits", "method=ssc", "sparsity=0.5", "speed_up=2"): "both set",
    ("dataset=digits", "method=ssc", "model=resnet20", "sparsity=0.999"): "nearest",
    ("dataset=digits", "recipe.epochs=none"): "recipe.epochs='none'",
    ("dataset=digits", "recipe.epochs=0", "recipe.momentum=2"): "recipe.momentum=2",
    ("dataset=digits", "recipe.optimizer=lion"): "recipe.optimizer='lion'",
    ("dataset=digits", "trainer.devices=0"): "trainer.devices=0",
    ("dataset=digits", "trainer.accelerator=gpu"): "no GPU",
    ("dataset=digits", "model.weights=/no/such.safetensors"): "/no/such.safetensors",
    ("dataset=digits", "output=/dev/null/here"): "cannot write to output folder /dev/null/here",
    ("dataset=cifar10", "dataset.root=/no/such/folder", "dataset.download=false"): "dataset.root",
    ("dataset=digits", "sparsity=0.9"): "dense",
    ("seed=1,2",): "--multirun runs them one after another, or a sweep with seeds=[1,2]",
    ("sparsity=0,9",): "with grid: {sparsity: [0,9]} several at once (docs/sweeps.md); a decimal point is a point",
    ("=3",): "cannot read '=3': write key=value",
    ("seed=[",): "cannot read override",
}


@pytest.mark.parametrize("words", MISTAKES, ids=" ".join)
def test_a_mistake_is_one_line(words: tuple[str, ...], tmp_path: Path) -> None:
    output = [] if any(word.startswith("output=") for word in words) else [f"output={tmp_path}"]
    with pytest.raises(UserError) as raised:
        experiment = prepare(compose([*output, *words]))
        assert experiment.steps and experiment.dense_cost
    assert MISTAKES[words] in str(raised.value) and "\n" not in str(raised.value)


EXITS = [
    *(["method=scc"], ["sparcity=0.9"], ["dataset=digits", "sparsity=1.5"], ["dataset=digits", "seed=abc"]),
    *(["dataset=digits", "trainer.nodes=2"], ["reproduce=svd_training/table3/11", "seeds=many"]),
]


@pytest.mark.parametrize("words", EXITS, ids=" ".join)
def test_the_exit_code_is_2(words: list[str], tmp_path: Path) -> None:
    command = [sys.executable, str(RUN), f"output={tmp_path}", *words]
    ended = subprocess.run(command, capture_output=True, text=True, check=False)
    assert ended.returncode == 2 and ended.stdout == ""
    assert ended.stderr.startswith("paredown: ") and len(ended.stderr.splitlines()) == 1


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("--sparsity 0.9", "cannot read '--sparsity': write sparsity=0.9"),
        ("method=ssc sparsity 0.9", "cannot read 'sparsity': write sparsity=0.9"),
        ("--method.g=3", "cannot read '--method.g=3': write method.g=3"),
        ("method = ssc", "cannot read 'method': write method=ssc"),
        ("ssc model=resnet20", "cannot read 'ssc': write method=ssc"),
        ("model=resnet20 cifar10", "cannot read 'cifar10': write dataset=cifar10 or recipe=cifar10"),
        ("--config-name x", "unknown option '--config-name'"),
    ],
)
def test_a_setting_with_dashes_is_written_as_it_should_be(line: str, said: str) -> None:
    with pytest.raises(UserError) as raised:
        run._check_words(line.split())
    assert str(raised.value).startswith(said)


def test_a_plan_is_shown_without_data(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    words = ["dataset=cifar10", "model=resnet20", "method=svd_training", "recipe.precision=32", "recipe.epochs=7"]
    run._plan([*words, f"dataset.root={tmp_path}", f"output={tmp_path}"])
    said = capsys.readouterr().out
    assert "sparsify" in said and "50,000" in said and "5 stages, 3 of them trainings" in said
    assert f"assumed: cifar10 is not in {tmp_path}: planned for its 50,000 training and 10,000 test" in said
    with pytest.raises(UserError, match="--plan stands beside settings alone, not '--cfg'"):
        run._plan(["--cfg", "job"])


def test_make_run_trains_the_dense_network_that_it_compares_with(tmp_path: Path) -> None:
    recipe = (RUN.parents[1] / "Makefile").read_text().replace("\\\n", " ")
    (line,) = re.findall(r"^run: .*\n\t\$\(BIN\)/python src/run\.py (.*)$", recipe, re.MULTILINE)
    experiment = prepare(compose([*line.split(), "recipe.precision=32", f"output={tmp_path}"]))
    assert experiment.config["deploy"] == "auto" and experiment.config["dataset"]["name"] == "digits"
    assert experiment.steps[0].key == experiment.dense_key


def test_help_of_choices_lists_their_settings() -> None:
    said = run._help(["method=ssc", "recipe=digits"])
    assert "method.g=" in said and "recipe.epochs=30" in said


def test_the_configuration_shown_is_data() -> None:
    shown = quick("--cfg", "job", "--resolve", "dataset=digits")
    assert "epochs: 30" in shown and json.dumps(compose(["dataset=digits"]))


@pytest.mark.parametrize(
    "words",
    [
        ["--config-d=/tmp/x"],  # argparse takes beginnings of options
        ["--config-path=/tmp/x"],
        ["-cn=x"],
        ["--experimental-rerun=x.pickle"],
        ["--hydra-help"],
        ["+hydra.callbacks.x._target_=os.system"],
        ["++hydra.job_logging.x=y"],
        ["hydra/launcher=x"],
    ],
    ids=" ".join,
)
def test_hydra_reads_and_calls_nothing_of_strangers(words: list[str]) -> None:
    with pytest.raises(UserError, match=r"unknown option|no setting of an experiment"):
        run._check_words(words)


def test_what_the_help_names_is_let_through() -> None:
    run._check_words(
        ["method=ssc", "--cfg", "job", "-m", "hydra.sweep.dir=x", "hydra.verbose=true", "~debug", "+a.b=c"]
    )


def test_the_configuration_shown_of_a_published_row_is_what_runs() -> None:
    shown = yaml.safe_load(
        quick("--cfg", "job", "--resolve", "reproduce=ssc/table1/125", "tracking=off").partition("HEAVY")[0]
    )
    ran = compose(commands(only_row("ssc/table1/125"), ["tracking=off"], 1)[0])
    del ran["names"]
    assert shown == ran
    assert (shown["model"]["depth"], shown["model"]["width"], shown["sparsity"]) == (32, 2, 0.9)
    assert shown["method"]["_target_"].endswith("SSC") and shown["dataset"]["validation"] == 0


def test_settings_of_the_rows_method_may_be_changed() -> None:
    shown = quick("reproduce=svd_training/table3/11", "method.energy=1e-3", "--cfg", "job", "--package", "method")
    assert "energy: 0.001" in shown and "decay: 0.03" in shown


@pytest.mark.parametrize(("alone", "done"), [(True, "reproduced"), (False, "ran")])
def test_a_rank_runs_the_one_seed_that_it_is_given(alone: bool, done: str, monkeypatch) -> None:
    calls = []
    monkeypatch.setattr("paredown.core.distributed.launched", lambda: not alone)
    monkeypatch.setattr("paredown.run.walk.run", lambda words: calls.append("ran"))
    monkeypatch.setattr(run, "_reproduce", lambda name, words: calls.append("reproduced"))
    monkeypatch.setattr("paredown.run.terminal.show", lambda *_: None)
    monkeypatch.setattr("paredown.run.terminal.next_commands", lambda *_: [])
    monkeypatch.setattr("paredown.core.distributed.exit_rank", lambda: None)
    monkeypatch.setattr(logging.getLogger("paredown"), "setLevel", lambda level: None)
    run._run(commands(only_row("ssc/table1/125"), [], 1)[0])
    assert calls == [done]


def test_options_may_follow_overrides() -> None:
    assert "energy: 0.001" in quick("method=svd_training", "method.energy=1e-3", "--cfg", "job", "--package", "method")


def test_a_warning_is_seen(tmp_path: Path) -> None:
    words = ["dataset=digits", "model=resnet20", "model.depth=8", "debug=fast", "tracking=off", "latency.seconds=0.02"]
    words += [f"output={tmp_path}", "progress=off"]
    done = subprocess.run([sys.executable, RUN, *words], capture_output=True, text=True, check=True)
    assert "recipe.precision=auto: " in done.stderr


@pytest.mark.slow
def test_what_the_first_training_step_does_not_need_is_not_imported_before(tmp_path: Path) -> None:
    first = runpy.run_path(str(Path(__file__).parents[2] / "benchmarks" / "start.py"))["FIRST"]
    words = ["dataset=digits", "model=resnet20", "debug=fast", f"output={tmp_path}", "trainer.accelerator=cpu"]
    command = [sys.executable, "-c", first, str(RUN), *words]
    loaded = subprocess.run(command, capture_output=True, text=True, check=True).stdout.split()
    assert {"torch", "pytorch_lightning", "torchmetrics"} <= {*loaded}
    assert not {"mlflow", "torchvision", "matplotlib", "plotly", "ray", "onnx"} & {*loaded}
    assert list(tmp_path.glob("experiments/*/tracking/journal.jsonl")) and not (tmp_path / "mlflow.db").exists()

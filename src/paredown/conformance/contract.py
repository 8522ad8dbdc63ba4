"""The contract of a method: what the project's own are tested for, and `paredown check` holds any other to."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any
from unittest.mock import patch

import torch

from paredown.conformance.fake_device import followed
from paredown.core import blueprint
from paredown.core.config import compose
from paredown.core.deploy import deploy, prove_equal
from paredown.core.errors import UserError, named_reason
from paredown.core.hooks import Hooks
from paredown.core.keys import identity_of
from paredown.core.kinds import KINDS
from paredown.core.plan import Edit, Fit
from paredown.core.trust import resolve, trusting
from paredown.core.words import SEARCH_PATH, root
from paredown.cost import count
from paredown.experiment.experiment import Experiment
from paredown.experiment.prepare import METHODS, prepare
from paredown.export.certificate import compare
from paredown.export.check import Images, evaluate_file
from paredown.export.entries import Reference
from paredown.export.files import FORMATS, Source, format_of
from paredown.run import walk
from paredown.run.walk import Result
from paredown.runtime.optimise import build
from paredown.store.states import Store

TARGETS = {"sparsity=0.7": "cost/sparsity", "speed_up=3": "cost/speed_up"}
CHANGED = (("sparsity=0.7", "sparsity=0.6", "sparsity=0.5"), ("speed_up=3", "speed_up=2", "speed_up=1.5"))
SMALL = ("dataset=digits", "model=resnet20", "model.depth=8", "debug=fast")
CHEAP = ("latency.seconds=0.02", "tracking=off", "trainer.progress=false")
EXACT, IN_FP32 = 1e-9, 1e-4  # relative differences of logits
METRICS = {
    *("final/top1", "best/top1", "selected/top1", "cost/macs", "cost/params", "cost/speed_up", "cost/compression"),
    *("cost/sparsity", "latency/ms", "latency/dense_ms", "latency/speed_up"),
}


class Broken(Exception):
    """A clause of the contract that a method breaks; the message says how."""


class Killed(Exception):
    """The end that a clause puts to a process, in its place."""


class Contract:
    """The contract as it applies to one method: `method` as it is typed, in experiments below `folder`; `more` holds
    settings of the method, and where it is found."""

    def __init__(self, method: str, folder: Path, more: Sequence[str] = ()) -> None:
        self.method, self.folder, self.more = method, folder, tuple(more)
        self.on_device: list[str | None] = []  # by training, what is wrong with its steps on another device

    @classmethod
    @contextmanager
    def of(cls, words: Sequence[str]) -> Iterator[Contract]:
        """Yield the contract for the method that `words` of a command line name, in a temporary folder. Raise UserError
        where they name none, one that cannot be imported, or what the contract itself decides."""
        method = next((word.partition("=")[2] for word in words if word.startswith("method=")), "")
        if not method:
            alone = next((word for word in words if "=" not in word), "NAME")
            raise UserError(f"check which method? give method={alone}")
        more = [word for word in words if not word.startswith("method=")]
        for word in more:
            if "=" not in word or not (root(word) in ("method", "trust") or word.startswith(SEARCH_PATH)):
                raise UserError(f"{word}: the check takes method=, method.KEY=, trust= and --config-dir alone")
        config = compose([f"method={method}", *more])
        with trusting(config["trust"] or ()):
            resolve(config["method"], "method", METHODS)  # what cannot be imported breaks no clause
        with TemporaryDirectory(prefix="paredown-check-") as folder:
            yield cls(method, Path(folder), more)

    def words(self, place: str, *more: str) -> list[str]:
        """Return the overrides of a small experiment with the method, below the folder `place`."""
        return [f"method={self.method}", *SMALL, *CHEAP, f"output={self.folder / place}", *self.more, *more]

    @cached_property
    def settings(self) -> list[str]:
        """Overrides under which the method runs: its own hyperparameters, or the first target that it takes."""
        refused = []
        for more in ([], *([target] for target in TARGETS)):
            try:
                prepared(words := self.words("finished", *more))
                return words
            except UserError as error:
                refused.append(str(error))
        raise Broken(f"it takes neither its defaults nor a target: {refused[0]}")

    @cached_property
    def finished(self) -> tuple[Result, Experiment]:
        """The result of the small experiment, and its plan."""
        experiment = prepared(self.settings)
        with followed() as self.on_device:
            result = walk.run(self.settings)
        return result, experiment

    def broken_by(self, clause: Clause) -> str | None:
        """Return how the method breaks `clause`, None where it keeps it."""
        try:
            clause.check(self)
        except Broken as error:
            return str(error)
        except Exception as error:
            return named_reason(error)
        return None


@dataclass(frozen=True)
class Clause:
    """One clause: what it says in a line, and the `check` that raises Broken, or anything else, where it does not."""

    text: str
    check: Callable[[Contract], None]
    exports: bool = False  # takes seconds more: it writes files


def prepared(words: Sequence[str]) -> Experiment:
    """Return the planned experiment of the overrides `words`."""
    experiment = prepare(compose(list(words)))
    require(bool(experiment.steps), "its plan has no stage")
    return experiment


def require(holds: bool, otherwise: str) -> None:
    """Raise Broken, saying what is `otherwise`, unless the clause `holds`."""
    if not holds:
        raise Broken(otherwise)


def _an_unknown_key_is_refused(contract: Contract) -> None:
    try:
        walk.run(contract.words("unknown", "method.colour=red"))
    except UserError as error:
        return require("unknown key 'colour'" in str(error), f"the refusal is about something else: {error}")
    raise Broken("method.colour=red was accepted")


def _every_stage_leaves_a_state_and_every_fit_a_loss(contract: Contract) -> None:
    _, experiment = contract.finished
    for step in experiment.steps:
        history, stage = experiment.store.record(step.key).history, step.stage
        epochs = stage.recipe.epochs if isinstance(stage, Fit) else 0
        require(len(history) == epochs, f"{stage.name} has {len(history)} rows of figures for {epochs} epochs")
        losses = [row["train/loss"] for row in history]
        require(all(0 < loss < 100 for loss in losses), f"{stage.name}: train/loss is {losses}")
        if isinstance(stage, Fit) and not _replaces_the_loss(stage):
            require(losses[-1] < losses[0], f"{stage.name} does not learn: train/loss is {losses}")


def _replaces_the_loss(stage: Fit) -> bool:
    """Tell whether a hook puts something else in the place of cross-entropy, which then need not fall."""
    return any(type(hook).loss is not Hooks.loss for hook in stage.hooks)


def _a_training_step_computes_on_one_device(contract: Contract) -> None:
    _, experiment = contract.finished
    fits = [step.stage.name for step in experiment.steps if isinstance(step.stage, Fit)]
    require(len(fits) == len(contract.on_device), f"{len(contract.on_device)} of the trainings {fits} began")
    for name, wrong in zip(fits, contract.on_device, strict=True):
        require(wrong is None, f"{name} on another device than the CPU: {wrong}")


def _edits_declare_the_layer_kinds_they_build(contract: Contract) -> None:
    # their versions are part of the edit's key: a kind that is built and not declared could change unseen
    _, experiment = contract.finished
    before: dict[str, str] = {}
    for step in experiment.steps:
        entries = experiment.store.read(step.key).blueprint
        kinds = {name: entry["kind"] for name, entry in entries.items()}
        built = {kind for name, kind in kinds.items() if before.get(name) != kind}
        declared = set(identity_of(step.stage.function).kinds) if isinstance(step.stage, Edit) else set()
        missing = sorted(built - declared)
        require(not missing, f"{step.stage.name} builds {missing}: declare them, @identity(..., kinds={missing})")
        require(declared <= KINDS.keys(), f"{step.stage.name} declares kinds that there are not: {sorted(declared)}")
        before = kinds


def _deployed_computes_the_same_and_both_counters_agree(contract: Contract) -> None:
    result, experiment = contract.finished
    module = blueprint.load(result.state).double()  # in fp32 folding factors rounds
    prove_equal(module, deploy(module), experiment.data.input_shape, tolerance=EXACT)
    cost = count(module, experiment.data.input_shape)  # raises where the counters disagree
    recorded = (result.metrics["cost/macs"], result.metrics["cost/params"])
    require((cost.macs, cost.params) == recorded, f"counted {cost.macs} and {cost.params}, recorded {recorded}")


def _the_result_has_every_promised_metric(contract: Contract) -> None:
    missing = sorted(METRICS - set(contract.finished[0].metrics))
    require(not missing, f"missing: {', '.join(missing)}")


def _a_target_is_met_or_refused(contract: Contract) -> None:
    for target, metric in TARGETS.items():
        quantity, wanted = target.split("=")[0], float(target.split("=")[1])
        try:
            reached = walk.run(contract.words("targets", target, "recipe.epochs=1")).metrics[metric]
        except UserError as error:
            named = _names(str(error), contract.method) or f"{quantity}=" in str(error)
            require(named, f"the refusal of {target} names neither {contract.method} nor {quantity}=: {error}")
            continue
        off, most = abs(reached - wanted), 0.02 if wanted < 1 else 0.1 * wanted
        require(off <= most, f"{target} was asked for, {reached:.4g} was reached")


def _names(text: str, word: str) -> bool:
    """Tell whether `word` stands by itself in `text`."""
    return re.search(rf"(?<!\w){re.escape(word)}(?!\w)", text) is not None


def _a_changed_target_changes_a_key(contract: Contract) -> None:
    taken = False
    for targets in CHANGED:
        keys = []
        for target in targets:
            try:
                keys.append(prepared(contract.words("changed", target)).steps[-1].key)
            except UserError:
                continue  # the clause about targets says how it is refused
        taken |= len(keys) > 1
        require(len(keys) == len(set(keys)), f"of {' and '.join(targets)} two have one key")
    require(taken or not _targeted(contract), "no two values of a target are taken, so that no key can be compared")


def _targeted(contract: Contract) -> bool:
    """Tell whether the method takes some target."""
    for target in TARGETS:
        try:
            prepared(contract.words("changed", target))
        except UserError:
            continue
        return True
    return False


def _a_kill_at_any_stage_boundary_changes_nothing(contract: Contract) -> None:
    result, experiment = contract.finished
    put = Store.put

    def put_and_die(*arguments: Any) -> None:
        put(*arguments)
        raise Killed

    again = [*contract.settings, f"output={contract.folder / 'again'}"]
    with patch.object(Store, "put", put_and_die):
        for _ in experiment.steps:
            try:
                walk.run(again)
            except Killed:
                continue
    ours, theirs = (blueprint.load(one.state).state_dict() for one in (walk.run(again), result))
    other = [name for name in theirs if name not in ours or not torch.equal(ours[name], theirs[name])]
    require(not other, f"a run that was killed between stages ends elsewhere: {other[:3]}")


def _what_is_exported_is_equal(contract: Contract) -> None:
    """Hold the certificate's comparison, in this process, over each of two formats."""
    result, experiment = contract.finished
    network = blueprint.read(result.state)
    source = Source(network, build(network, {}), {}, {"input": list(network.input_shape)})
    reference = Reference.of(network, experiment.data, "val")
    for form in ("torch", "onnx"):
        path = contract.folder / "exported" / FORMATS[form]
        path.parent.mkdir(exist_ok=True)
        format_of(form).write(source, path)
        found = evaluate_file(
            form, path, Images(experiment.config["dataset"], "val", tuple(experiment.config["trust"]))
        )
        entry = compare(path, found, 0, *reference, tolerance=IN_FP32)
        same = entry.equal and entry.equal_predictions == 1
        counted = result.metrics["cost/macs"]  # of what a mask keeps: a weight that has just grown is zero there
        require(same and 0 < entry.active_macs <= counted, f"{form}: {entry}, counted {counted:g}")


CLAUSES = (
    Clause("an unknown key is refused", _an_unknown_key_is_refused),
    Clause(
        "every stage leaves a state and every fit a loss that falls", _every_stage_leaves_a_state_and_every_fit_a_loss
    ),
    Clause(
        "a training step computes on one device, a CUDA one that is not there", _a_training_step_computes_on_one_device
    ),
    Clause("edits declare the layer kinds that they build", _edits_declare_the_layer_kinds_they_build),
    Clause("deployed computes the same, and both counters agree", _deployed_computes_the_same_and_both_counters_agree),
    Clause("the result has every promised metric", _the_result_has_every_promised_metric),
    Clause("a target is met, or refused by name", _a_target_is_met_or_refused),
    Clause("a changed target changes a key", _a_changed_target_changes_a_key),
    Clause("a kill at any stage boundary changes nothing", _a_kill_at_any_stage_boundary_changes_nothing),
    Clause("what is exported is equal", _what_is_exported_is_equal, exports=True),
)

"""A training step under TRP against a plain one: the same network and batch, in turns, on one thread.

    python benchmarks/trp.py --model resnet20 --batch 128

A turn is as many steps as the longest period, so each turn of a contender has the same number of truncations. Printed
is the median over the turns, and the median over the turns of its ratio to the plain one beside it. Processor time,
which other programs disturb less.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time

PERIODS = (1, 5)
FORMS = ("channel", "spatial")


def contenders(model: str):
    """By name: a network, its optimiser, and the hooks of a fit, from the configuration itself."""
    import torch

    from paredown.core.config import compose
    from paredown.core.hooks import Context, FitState
    from paredown.experiment.prepare import prepare
    from paredown.training.module import make_optimizer

    settings = {"plain": ["method=dense"]}
    for form in FORMS:
        for period in PERIODS:
            settings[f"{form}, period {period}"] = ["method=trp", f"method.form={form}", f"method.period={period}"]
    found = {}
    with tempfile.TemporaryDirectory() as output:
        common = [f"model={model}", "dataset=digits", "recipe=trp", f"output={output}"]
        for name, overrides in settings.items():
            experiment = prepare(compose([*common, *overrides]))
            stage = experiment.steps[0].stage
            module = experiment.dense().module.train().to(memory_format=torch.channels_last)
            fit = FitState(module, Context(None, torch.device("cpu"), 0), stage.recipe)
            found[name] = (fit, make_optimizer(module, stage.recipe), stage.hooks)
    return found


def turn(contender, batch, first_step: int) -> float:
    """Seconds of processor time of one turn."""
    from torch.nn.functional import cross_entropy

    fit, optimizer, hooks = contender
    images, labels = batch
    started = time.process_time()
    for step in range(first_step, first_step + max(PERIODS)):
        fit.step = fit.step_in_epoch = step
        for hook in hooks:
            hook.before_step(fit)
        loss = cross_entropy(fit.model(images), labels)
        for hook in hooks:
            loss = loss + sum(hook.penalties(fit).values())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return time.process_time() - started


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="resnet20")
    parser.add_argument("--batch", type=int, default=128)
    parser.add_argument("--turns", type=int, default=15)
    options = parser.parse_args()
    import torch

    torch.set_num_threads(1)
    torch.manual_seed(0)
    ours = contenders(options.model)
    channels = next(next(iter(ours.values()))[0].model.parameters()).shape[1]
    images = torch.randn(options.batch, channels, 32, 32).contiguous(memory_format=torch.channels_last)
    batch = (images, torch.randint(10, (options.batch,)))
    seconds: dict[str, list[float]] = {name: [] for name in ours}
    for number in range(options.turns + 1):
        for name, contender in ours.items():
            taken = turn(contender, batch, number * max(PERIODS))
            if number:  # the first turn warms up
                seconds[name].append(taken / max(PERIODS))
    for name, taken in seconds.items():
        ratio = statistics.median(a / b for a, b in zip(taken, seconds["plain"], strict=True))
        print(f"{name:18} {1e3 * statistics.median(taken):8.1f} ms/step  {ratio:.3f}x")


if __name__ == "__main__":
    main()

"""What to do with a GPU that is lent for minutes: docs/gpu.md.

    python benchmarks/gpu.py tests                                  the tests marked gpu
    python benchmarks/gpu.py throughput [--minutes 8] [--json F]    images a second of training steps, by form
    python benchmarks/gpu.py experiments LIST [--at-once 4] [--minutes 9] [--folder F] [words for all ...]

LIST has the words of one `src/run.py` a line; `trust=` and `model.source=`, which let code run, are typed after it.
Experiments run side by side until the deadline; what is finished leaves F/DIGEST.json (its words, metrics and seconds;
the digest is of the words), what is not goes on in the next call with the same output folder. Neither Ray nor MLflow
is needed. Every command runs on a CPU too (--device cpu), to try it out.
"""  # fmt: skip

from __future__ import annotations

from paredown.core import interrupt

if __name__ == "__main__":
    interrupt.install()  # the other imports take seconds, in which Ctrl-C is one line already

import argparse
import itertools
import json
import multiprocessing
import os
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any, ClassVar, NoReturn

import torch
from torch import nn
from torch.nn.functional import cross_entropy

from paredown.core.config import SOURCE, compose, compose_all
from paredown.core.constraints import Checked, Count, NonNegative, Positive
from paredown.core.errors import UserError
from paredown.core.files import read_text
from paredown.core.keys import digest
from paredown.core.layout import RESULT
from paredown.core.recipe import Recipe
from paredown.core.requests import MISTAKE
from paredown.core.words import HYDRA, TRUST, root
from paredown.experiment.prepare import prepare
from paredown.models.cifar.resnet import cifar_resnet
from paredown.models.cifar.vgg import vgg19_bn
from paredown.training.module import make_optimizer

ROOT = Path(__file__).parents[1]
NETWORKS = {"resnet20": lambda: cifar_resnet(20), "resnet32": lambda: cifar_resnet(32), "vgg19": vgg19_bn}
PRECISIONS = {"fp32": None, "bf16": torch.bfloat16, "fp16": torch.float16}
PROCESSES = (1, 2, 4, 8)
DIGITS = 10  # of an experiment's digest
WARM_UP, GRACE = 5, 20.0  # steps; seconds between asking an experiment to stop and killing it


@dataclass(frozen=True)
class Form:
    """One way to run a training step; `graph`: captured once and replayed (CUDA graphs)."""

    network: str
    precision: str = "fp32"
    channels_last: bool = True
    compile: bool = False
    graph: bool = False


def forms(on_gpu: bool) -> Iterator[Form]:
    """Yield every form of every network that the device can run."""
    graphs = (False, True) if on_gpu else (False,)
    for network, precision, last, compiled, graph in itertools.product(
        NETWORKS, PRECISIONS, (True, False), (False, True), graphs
    ):
        if not (graph and (compiled or precision == "fp16")):  # compile captures itself; a scaler branches on values
            yield Form(network, precision, last, compiled, graph)


@dataclass(frozen=True)
class Numbers(Checked):
    """What the numbers on the command line may be."""

    section: ClassVar[str] = ""

    batch: Count = 128
    rounds: Count = 3
    seconds: NonNegative = 1.0
    at_once: Count = 4
    minutes: Positive = 8.0


class Parser(argparse.ArgumentParser):
    """A parser whose mistakes are one line, without the usage."""

    def error(self, message: str) -> NoReturn:
        """Raise UserError with `message`."""
        raise UserError(message)


class Step:
    """A training step of `form` on one batch of random images."""

    def __init__(self, form: Form, batch: int, device: str) -> None:
        torch.manual_seed(0)
        layout = torch.channels_last if form.channels_last else torch.contiguous_format
        self.form, self.batch, self.device = form, batch, torch.device(device)
        self.network: nn.Module = NETWORKS[form.network]().to(self.device, memory_format=layout).train()
        self.images = torch.randn(batch, 3, 32, 32, device=self.device).to(memory_format=layout)
        self.labels = torch.randint(10, (batch,), device=self.device)
        self.optimizer = make_optimizer(self.network, Recipe(epochs=1, learning_rate=0.001))
        self.scaler = torch.amp.GradScaler(device=self.device.type, enabled=form.precision == "fp16")
        self.forward = torch.compile(self.network) if form.compile else self.network
        self.run = self._captured() if form.graph else self.eager

    def eager(self) -> None:
        """Make one step."""
        kind = PRECISIONS[self.form.precision]
        self.optimizer.zero_grad(set_to_none=not self.form.graph)
        with torch.autocast(self.device.type, kind, enabled=kind is not None):
            loss = cross_entropy(self.forward(self.images), self.labels)
        self.scaler.scale(loss).backward()
        self.scaler.step(self.optimizer)
        self.scaler.update()

    def _captured(self) -> Any:
        """Capture a step on a side stream, after some that warm up what allocates once."""
        stream = torch.cuda.Stream()
        stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(stream):
            for _ in range(WARM_UP):
                self.eager()
        torch.cuda.current_stream().wait_stream(stream)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            self.eager()
        return graph.replay

    def images_per_second(self, seconds: float) -> float:
        """Return the images of as many steps as `seconds` have room for, a second; at least one step."""
        for _ in range(WARM_UP):
            self.run()
        self._wait()
        started, steps = time.perf_counter(), 0
        while not steps or time.perf_counter() - started < seconds:
            self.run()
            steps += 1
            if steps % 10 == 0:
                self._wait()
        self._wait()
        return steps * self.batch / (time.perf_counter() - started)

    def _wait(self) -> None:
        if self.device.type == "cuda":
            torch.cuda.synchronize()


def throughput(options: argparse.Namespace) -> int:
    """Time the forms in turn, three rounds, until the deadline; then the best form of each network in several
    processes that share the device. Return 1 if no form could be timed."""
    require_device(options.device)
    if options.json:
        require_place(options.json)
    deadline = time.monotonic() + 60 * options.minutes
    on_gpu = options.device.startswith("cuda")
    every = [form for form in forms(on_gpu) if not options.only or form.network in options.only]
    rates: dict[Form, list[float]] = {form: [] for form in every}
    failed: dict[Form, str] = {}
    for _, form in itertools.product(range(options.rounds), every):
        if form in failed or time.monotonic() > deadline - 60 * options.minutes / 3:
            continue
        try:
            rates[form].append(Step(form, options.batch, options.device).images_per_second(options.seconds))
        except (RuntimeError, NotImplementedError) as error:
            failed[form] = str(error).splitlines()[0]
    timed = {form: sorted(found)[len(found) // 2] for form, found in rates.items() if found}
    for form, rate in timed.items():
        print(f"{rate:10,.0f} images/s  {_words(form)}")
    for form, reason in failed.items():
        print(f"    failed  {_words(form)}: {reason}")
    shared = []
    for network in sorted({form.network for form in timed}):
        best = max((form for form in timed if form.network == network), key=timed.__getitem__)
        for number in PROCESSES:
            if time.monotonic() < deadline:
                rate = sharing(best, number, options)
                shared.append({"form": asdict(best), "processes": number, "images_per_second": rate})
                print(f"{rate:10,.0f} images/s  {_words(best)}, {number} processes")
    if options.json:
        rows = [{"form": asdict(form), "rounds": found} for form, found in rates.items()]
        device = torch.cuda.get_device_name() if on_gpu else "cpu"
        found = {"device": device, "torch": torch.__version__, "batch": options.batch, "rates": rows, "shared": shared}
        options.json.write_text(json.dumps(found, indent=1))
    return int(not timed)


def require_device(name: str) -> None:
    """Raise UserError for what is neither the CPU nor a GPU that torch can use."""
    try:
        device = torch.device(name)
    except RuntimeError:
        raise UserError(f"--device {name}: write cpu, cuda or cuda:NUMBER") from None
    if device.type not in ("cpu", "cuda"):
        raise UserError(f"--device {name}: write cpu, cuda or cuda:NUMBER")
    if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
        found = torch.cuda.device_count()
        raise UserError(f"--device {name}: torch can use {found} GPUs of this machine; --device cpu tries it out")


def require_place(path: Path) -> None:
    """Raise UserError where no file can be written at `path`: before the timing, not after."""
    if path.is_dir() or not path.parent.is_dir() or not os.access(path if path.exists() else path.parent, os.W_OK):
        raise UserError(f"--json {path}: no file can be written there")


def _words(form: Form) -> str:
    flags = [name for name in ("channels_last", "compile", "graph") if getattr(form, name)]
    return " ".join([form.network, form.precision, *flags])


def sharing(form: Form, processes: int, options: argparse.Namespace) -> float:
    """Return the images a second of all `processes` together, which time the same seconds side by side."""
    context = multiprocessing.get_context("spawn")
    gate, queue = context.Barrier(processes), context.Queue()
    workers = [context.Process(target=_worker, args=(form, options, gate, queue)) for _ in range(processes)]
    try:
        with _without_interrupts():
            for worker in workers:
                worker.start()
        rates = [queue.get() for _ in workers]
        for worker in workers:
            worker.join()
    finally:
        for worker in workers:
            if worker.is_alive():
                worker.terminate()
    return float(sum(rates))


@contextmanager
def _without_interrupts() -> Iterator[None]:
    """Hold SIGINT back from this process in the `with` block, and for good from those that it starts: they are ended by
    this one, which says one line."""
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGINT})


def _worker(form: Form, options: argparse.Namespace, gate: Any, queue: Any) -> None:
    step = Step(form, options.batch, options.device)
    step.images_per_second(0)  # compiled and captured before the others start
    gate.wait()
    queue.put(step.images_per_second(options.seconds))


def experiments(options: argparse.Namespace) -> int:
    """Run the experiments of the list, `at_once` at a time, until the deadline. Return 1 if one of them failed."""
    deadline = time.monotonic() + 60 * options.minutes
    every = {name_of(words): words for words in read_list(options.list, options.words)}
    require_composed(options.list, [*every.values()])
    make_folder(options.folder)
    waiting = [(name, words) for name, words in every.items() if not (options.folder / f"{name}.json").is_file()]
    running: dict[str, tuple[subprocess.Popen[bytes], list[str], float]] = {}
    failed = 0
    try:
        while (waiting or running) and time.monotonic() < deadline:
            while waiting and len(running) < options.at_once:
                name, words = waiting.pop(0)
                running[name] = _start(options.folder / f"{name}.log", words), words, time.monotonic()
            for name, (process, words, started) in list(running.items()):
                if process.poll() is not None:
                    del running[name]
                    failed += process.returncode != 0
                    _report(options.folder, name, words, process.returncode, time.monotonic() - started)
            time.sleep(0.2)
    finally:
        _stop([process for process, _, _ in running.values()])
    left = len(running) + len(waiting)
    print(f"{failed} experiments failed, {left} experiments are not done: the same command goes on with them")
    return int(failed > 0)


def _start(log: Path, words: Sequence[str]) -> subprocess.Popen[bytes]:
    command = [sys.executable, str(ROOT / "src" / "run.py"), *words, "tracking=off", "trainer.progress=false"]
    with log.open("wb") as file:
        return subprocess.Popen(command, stdout=file, stderr=file)


def require_composed(path: Path, every: Sequence[Sequence[str]]) -> None:
    """Raise UserError for the first of the experiments `every` in the list `path` that has an unknown key or choice."""
    composed = compose_all([*words, "tracking=off"] for words in every)
    for words in every:
        try:
            next(composed)
        except UserError as error:
            raise UserError(f"{path}: {shlex.join(words)}: {error}") from error


def make_folder(path: Path) -> None:
    """Make the folder `path`. Raise UserError where there can be none."""
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"--folder {path}: {error.strerror}") from error


def read_list(path: Path, typed: Sequence[str]) -> list[list[str]]:
    """Return the words of each experiment of the list, with those that are `typed` for all. Raise UserError for a line
    that is no words of one, or that lets code run: a person types that, see SECURITY.md."""
    found = []
    for number, line in enumerate(read_text(path, "give the file with the experiments").splitlines(), 1):
        try:
            words = shlex.split(line, comments=True)
        except ValueError as error:
            raise UserError(f"{path}:{number}: {error}") from error
        for word in words:
            if word.startswith("-") or "=" not in word:
                raise UserError(f"{path}:{number}: {word} is no word of an experiment, KEY=VALUE")
            if root(word) in (TRUST, HYDRA) or word.lstrip("+~").partition("=")[0] == SOURCE:
                raise UserError(f"{path}:{number}: {word}: a file cannot grant that, type it if you mean it")
        found += [[*words, *typed]] if words else []
    return found


def name_of(words: Sequence[str]) -> str:
    """Return the name of the files of an experiment, which stays when lines before it come or go."""
    return digest(list(words))[:DIGITS]


def _report(folder: Path, name: str, words: Sequence[str], code: int, seconds: float) -> None:
    if code:
        print(f"{name} failed with exit code {code}, see {folder / f'{name}.log'}: {shlex.join(words)}")
        return
    result = prepare(compose([*words, "tracking=off"])).folder / RESULT
    found = {"words": list(words), "seconds": round(seconds, 1), "metrics": json.loads(result.read_text())}
    (folder / f"{name}.json").write_text(json.dumps(found, indent=1))
    print(f"{name} done in {seconds:.0f} s: {found['metrics']['final/top1']:.2f} %  {shlex.join(words)}")


def _stop(processes: Sequence[subprocess.Popen[bytes]]) -> None:
    """Interrupt what still runs: finished stages and epochs are kept."""
    for process in processes:
        process.send_signal(signal.SIGINT)
    ends = time.monotonic() + GRACE
    for process in processes:
        try:
            process.wait(max(0.1, ends - time.monotonic()))
        except subprocess.TimeoutExpired:
            process.kill()


def parse(typed: Sequence[str]) -> argparse.Namespace:
    """Parse the command line. Raise UserError for what is wrong with it."""
    parser = Parser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(dest="command", required=True)
    commands.add_parser("tests")
    timing = commands.add_parser("throughput")
    timing.add_argument("--device", default="cuda")
    timing.add_argument("--batch", type=int, default=128)
    timing.add_argument("--rounds", type=int, default=3)
    timing.add_argument("--seconds", type=float, default=1.0, help="of one measurement")
    timing.add_argument("--minutes", type=float, default=8.0, help="a third of them for processes that share")
    timing.add_argument("--only", nargs="*", choices=list(NETWORKS), help="these networks")
    timing.add_argument("--json", type=Path)
    running = commands.add_parser("experiments")
    running.add_argument("list", type=Path)
    running.add_argument("--at-once", type=int, default=4)
    running.add_argument("--minutes", type=float, default=9.0)
    running.add_argument("--folder", type=Path, default=Path(os.environ.get("OUT", "outputs")) / "gpu")
    words = [word for word in typed if "=" in word and not word.startswith("-")]  # for src/run.py
    options = parser.parse_args([word for word in typed if word not in words])
    if words and options.command != "experiments":
        raise UserError(f"{options.command} takes no words of an experiment, got {words[0]}: write --OPTION VALUE")
    options.words = words
    given = vars(options)
    Numbers(**{item.name: given[item.name] for item in fields(Numbers) if item.name in given})
    return options


def run(options: argparse.Namespace) -> int:
    """Return the exit code of the command that was asked for."""
    if options.command == "tests":
        return subprocess.call([sys.executable, "-m", "pytest", "-m", "gpu", "-q"], cwd=ROOT)
    return experiments(options) if options.command == "experiments" else throughput(options)


def main() -> int:
    """Return the exit code; a mistake, and an interruption, is one line."""
    try:
        with interrupt.working():
            return run(parse(sys.argv[1:]))
    except UserError as error:
        print(error, file=sys.stderr)
        return MISTAKE
    except KeyboardInterrupt:
        print("interrupted; the same command goes on", file=sys.stderr)
        return interrupt.INTERRUPTED


if __name__ == "__main__":
    sys.exit(main())

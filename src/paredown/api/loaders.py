"""The data set behind a loader that somebody gives, its labels, and this process's random generators."""

from __future__ import annotations

import logging
import random
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch.utils.data import (
    DataLoader,
    Dataset,
    IterableDataset,
    RandomSampler,
    SequentialSampler,
    Subset,
    SubsetRandomSampler,
    TensorDataset,
)

from paredown.core.errors import UserError, named_reason

Loader = Iterable[Any]  # of batches (images, labels)
log = logging.getLogger("paredown")


def taken(loader: Loader, what: str) -> tuple[Dataset[Any], dict[str, Any]]:
    """Return the data set behind `loader`, and the settings by which a DataLoader reads it. Raise UserError for one
    that is empty, or that gives other images than each once an epoch."""
    if isinstance(loader, str | Path):
        raise UserError(
            f"{what}={loader} is a path: give a DataLoader; the images of train=FOLDER have their own test/"
        )
    plain = isinstance(loader, DataLoader) and type(loader).__iter__ is DataLoader.__iter__
    if not isinstance(loader, DataLoader) or not plain or isinstance(loader.dataset, IterableDataset):
        return _in_memory(loader, what)
    _refuse_selection(loader, what)
    dataset = loader.dataset
    if isinstance(loader.sampler, SubsetRandomSampler):
        dataset = Subset(dataset, list(loader.sampler.indices))
    if not len(dataset):  # type: ignore[arg-type]
        raise UserError(f"{what}= has no images")
    names = ("collate_fn", "num_workers", "worker_init_fn", "multiprocessing_context")
    return dataset, {name: getattr(loader, name) for name in names}


def _refuse_selection(loader: DataLoader[Any], what: str) -> None:
    """Raise UserError where `loader` chooses its images otherwise than a shuffle does: here the seed shuffles, and each
    image comes once an epoch."""
    sampler: Any = loader.sampler
    wrong = ""
    size = len(loader.dataset)  # type: ignore[arg-type]
    if loader.batch_sampler is None:
        wrong = "batch_size=None"
    elif loader.batch_size is None:
        wrong = f"the batch_sampler {type(loader.batch_sampler).__name__}"
    elif type(sampler) not in (RandomSampler, SequentialSampler, SubsetRandomSampler):
        wrong = f"the sampler {type(sampler).__name__}"
    elif type(sampler) is not SubsetRandomSampler and len(sampler) != size:
        wrong = f"a sampler of {len(sampler)} of its {size} images"
    elif isinstance(sampler, RandomSampler) and sampler.replacement:
        wrong = "a sampler with replacement"
    elif loader.drop_last and len(sampler) % loader.batch_size:
        wrong = f"drop_last=True, which leaves {len(sampler) % loader.batch_size} images out"
    if wrong:
        raise UserError(
            f"{what}= has {wrong}: here the seed shuffles, each image once an epoch, in one process; give "
            "DataLoader(dataset, batch_size=..., shuffle=True), of a torch.utils.data.Subset where some are wanted"
        )


def _in_memory(loader: Loader, what: str) -> tuple[Dataset[Any], dict[str, Any]]:
    """Read an iterable of batches into memory, once."""
    try:
        batches = [(images, labels) for images, labels in loader]
        if not batches:
            raise UserError(f"{what}= has no images (a generator that was read before has none left)")
        tensors = TensorDataset(*(torch.cat([pair[place] for pair in batches]) for place in (0, 1)))
    except (TypeError, ValueError, RuntimeError, AssertionError) as error:
        kind, reason = type(loader).__name__, named_reason(error)
        raise UserError(
            f"{what}= is no DataLoader, folder or iterable of pairs (images, labels): {kind} ({reason})"
        ) from error
    log.info("%s=: %d images are kept in memory: what is given has no data set behind it", what, len(tensors))
    return tensors, {"collate_fn": torch.utils.data.default_collate, "num_workers": 0}


def known_labels(dataset: Any) -> NDArray[np.int64] | None:
    """Return the labels of a data set that knows them without reading images, None where it does not."""
    if isinstance(dataset, TensorDataset):
        return dataset.tensors[1].cpu().numpy().astype(np.int64)
    if isinstance(dataset, Subset):
        known = known_labels(dataset.dataset)
        return None if known is None else known[np.asarray(dataset.indices)]
    found = getattr(dataset, "targets", None)
    if found is None or getattr(dataset, "target_transform", None) is not None:
        return None
    try:
        known = np.asarray(found)
    except ValueError:  # rows of several lengths
        return None
    numbers = np.issubdtype(known.dtype, np.integer) and known.shape == (len(dataset),)
    return known.astype(np.int64) if numbers else None


@contextmanager
def generators_kept() -> Iterator[None]:
    """Leave this process's random generators as they were."""
    python, numpy = random.getstate(), np.random.get_state()
    try:
        with torch.random.fork_rng():
            yield
    finally:
        random.setstate(python)
        np.random.set_state(numpy)


def seed(number: int) -> None:
    """Seed the generators that transforms of images draw from."""
    random.seed(number)
    np.random.seed(number)
    torch.manual_seed(number)

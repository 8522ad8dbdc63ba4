"""Data sets as their configuration makes them."""

from pathlib import Path

import pytest
from hydra import compose, initialize_config_dir
from hydra.errors import InstantiationException
from hydra.utils import instantiate

CONF = Path(__file__).parents[2] / "conf"


@pytest.fixture
def dataset(tmp_path):
    """dataset(name, *overrides): the data module of conf/dataset/<name>.yaml, its cache below tmp_path."""

    def make(name, *overrides):
        with initialize_config_dir(str(CONF), version_base=None):
            config = compose(f"dataset/{name}", overrides=[f"+output={tmp_path}", *overrides])
        try:
            return instantiate(config.dataset)
        except InstantiationException as error:
            assert error.__cause__ is not None
            raise error.__cause__ from None

    return make


@pytest.fixture(scope="session")
def real_cache(tmp_path_factory):
    """One override, so that the shared images are decoded once for all tests."""
    return f"dataset.cache={tmp_path_factory.mktemp('cache')}"

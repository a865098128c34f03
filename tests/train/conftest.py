"""What the tests of whole runs share."""

from collections.abc import Iterator
from unittest import mock

import jax
import pytest

from tests.train import tiny_net


@pytest.fixture(scope="module")
def compile_once(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Every run compiles the same programs anew but for this cache."""
    settings = {
        "jax_compilation_cache_dir": str(tmp_path_factory.mktemp("cache")),
        "jax_persistent_cache_min_compile_time_secs": 0.0,
    }
    before = {name: getattr(jax.config, name) for name in settings}
    for name, value in settings.items():
        jax.config.update(name, value)
    yield
    for name, value in before.items():
        jax.config.update(name, value)


@pytest.fixture
def tiny() -> Iterator[None]:
    with mock.patch("flaxarch.create", tiny_net.create):
        yield

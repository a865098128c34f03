"""What a step gives back is there for the next one: pages that the system hands out are counted."""

import subprocess
import sys
from importlib.metadata import EntryPoint, EntryPoints

import pytest

from flaxarch.ops import memory

PAGES_OF_STEPS = """
import resource, sys
from flaxarch.ops import keep_freed_memory
if sys.argv[1] == "keep" and not keep_freed_memory():
    sys.exit(77)
import jax, jax.numpy as jnp
step = jax.jit(lambda x: x + 1)  # 64 MiB, which nobody keeps
x = jnp.ones((4096, 4096))
def pages():
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(25):
        step(x).block_until_ready()
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before
print(min(pages() for _ in range(12)))  # what is kept grows, until it is enough for any step
"""


def pages(word: str) -> int:
    command = [sys.executable, "-c", PAGES_OF_STEPS, word]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    if done.returncode == 77:
        pytest.skip("memory is not glibc's here")
    assert done.returncode == 0, done.stderr
    return int(done.stdout)


def test_steps_come_to_take_hardly_a_new_page_where_memory_is_kept():
    assert pages("keep") < 0.01 * pages("return")


@pytest.mark.parametrize(("asked", "kept"), [("1", [True]), ("0", []), (None, [True])])
def test_commands_keep_memory_unless_told_not_to(
    monkeypatch: pytest.MonkeyPatch, asked: str | None, kept: list[bool]
):
    calls: list[bool] = []
    monkeypatch.setattr(memory, "keep_freed_memory", lambda: calls.append(True))
    monkeypatch.delenv("FLAXARCH_KEEP_MEMORY", raising=False)
    if asked is not None:
        monkeypatch.setenv("FLAXARCH_KEEP_MEMORY", asked)
    memory.prepare_memory()
    assert calls == kept


@pytest.mark.parametrize("platforms", ["cuda", "cuda,cpu"])
def test_memory_is_left_alone_where_an_accelerator_was_asked_for(
    monkeypatch: pytest.MonkeyPatch, platforms: str
):
    monkeypatch.setattr(memory.jax, "config", type("Config", (), {"jax_platforms": platforms}))
    monkeypatch.setattr(memory, "ctypes", None)  # it would be an error to go on
    assert not memory.keep_freed_memory()


def test_memory_is_left_alone_where_jax_may_find_an_accelerator(monkeypatch: pytest.MonkeyPatch):
    plugin = EntryPoints([EntryPoint("cuda", "plugin:initialize", "jax_plugins")])
    monkeypatch.setattr(memory.jax, "config", type("Config", (), {"jax_platforms": None}))
    monkeypatch.setattr(memory, "entry_points", lambda group: plugin.select(group=group))
    monkeypatch.setattr(memory, "ctypes", None)
    assert not memory.keep_freed_memory()

"""Runs of two processes, which find one another over the loopback."""

import os
import re
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest
from PIL import Image

from tests.train import tiny_net
from train.checkpoint import load_variables
from train.metrics import read_rows

pytestmark = pytest.mark.slow
MESH = ("--parallel", "mesh")
ROOT = Path(__file__).parents[2]
FLAGS = {"epochs": 4, "save-every": 5, "log-every": 4, "batch-size": 32, "learning-rate": 0.02}


def start(run_dir: Path, devices: int, *flags: str, cache: Path) -> subprocess.Popen[str]:
    environment = {
        **os.environ,
        "PYTHONPATH": str(ROOT),
        "XLA_FLAGS": f"--xla_force_host_platform_device_count={devices}",
        "JAX_COMPILATION_CACHE_DIR": str(cache),
        "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
    }
    own = [word for name, value in FLAGS.items() for word in (f"--{name}", str(value))]
    command = [sys.executable, str(Path(tiny_net.__file__)), *own, "--workdir", str(run_dir), *flags]
    return subprocess.Popen(
        command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )


def start_two(run_dir: Path, *flags: str, cache: Path) -> list[subprocess.Popen[str]]:
    """Both processes of a run on two devices each."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{free.getsockname()[1]}"
    places = [("--coordinator", address, "--num-processes", "2", "--process-id", str(i)) for i in range(2)]
    return [start(run_dir, 2, *place, *flags, cache=cache) for place in places]


def finish(*processes: subprocess.Popen[str]) -> list[str]:
    said = [process.communicate(timeout=300) for process in processes]
    assert [process.returncode for process in processes] == [0] * len(processes), [err for _, err in said]
    return [out for out, _ in said]


# What Gloo itself says; its two halves may be torn apart, as several threads write.
GLOO = re.compile(
    r"\[Gloo\] Rank \d+ is connected to \d+ peer ranks\. |Expected number of connected peer ranks is : \d+"
)


def losses(run_dir: Path) -> np.ndarray:
    return np.array([row["loss"] for row in read_rows(run_dir / "metrics.jsonl")])


@pytest.mark.parametrize("flags", [(), MESH, (*MESH, "--shard-params")], ids=["pmap", "mesh", "sharded"])
def test_two_processes_of_two_devices_do_what_one_of_four_and_one_device_do(
    flags: tuple[str, ...], tmp_path: Path
):
    cache = tmp_path / "cache"
    mesh = flags[:2]
    finish(start(tmp_path / "one", 1, *mesh, cache=cache))
    finish(start(tmp_path / "four", 4, *flags, cache=cache))
    first, second = finish(*start_two(tmp_path / "two", *flags, cache=cache))
    assert "test accuracy" in first
    assert GLOO.sub("", second).split() == []
    expected = losses(tmp_path / "one")
    np.testing.assert_allclose(losses(tmp_path / "four"), expected, rtol=2e-3)
    np.testing.assert_allclose(losses(tmp_path / "two"), expected, rtol=2e-3)
    np.testing.assert_allclose(losses(tmp_path / "two")[:2], losses(tmp_path / "four")[:2], rtol=1e-5)


@pytest.mark.parametrize("victim", [0, 1], ids=["coordinator", "other"])
def test_when_one_process_is_killed_the_other_says_so_and_the_relaunch_ends_bit_for_bit_the_same(
    victim: int, tmp_path: Path
):
    cache = tmp_path / "cache"
    finish(*start_two(tmp_path / "unbroken", cache=cache))
    run_dir = tmp_path / "killed"
    processes = start_two(run_dir, cache=cache)
    wait_for_rows(run_dir, 6, processes)
    kill_child(processes[victim])
    began = time.monotonic()
    _, err = processes[1 - victim].communicate(timeout=60)
    assert time.monotonic() - began < 60
    assert processes[1 - victim].returncode == 1
    assert "error: " in err
    processes[victim].communicate(timeout=60)

    first, _ = finish(*start_two(run_dir, cache=cache))
    assert "continuing after step" in first
    found, expected = (load_variables(path / "last") for path in (run_dir, tmp_path / "unbroken"))
    jax.tree.map(np.testing.assert_array_equal, found, expected)


def test_sigterm_to_one_process_stops_both_after_the_same_step(tmp_path: Path):
    cache = tmp_path / "cache"
    processes = start_two(tmp_path / "run", cache=cache)
    wait_for_rows(tmp_path / "run", 5, processes)
    processes[1].send_signal(signal.SIGTERM)
    said = [process.communicate(timeout=60)[1] for process in processes]
    assert [process.returncode for process in processes] == [0, 0]
    (step,) = {line for err in said for line in err.splitlines() if "stopped after step" in line}
    assert "the same command continues this run" in step


def test_sigterm_ahead_of_the_first_step_of_a_resumed_run_stops_it_after_that_step(tmp_path: Path):
    cache, run_dir = tmp_path / "cache", tmp_path / "run"
    processes = start_two(run_dir, cache=cache)
    wait_for_rows(run_dir, 5, processes)
    processes[0].send_signal(signal.SIGTERM)
    (step,) = {stopped_after(process) for process in processes}

    processes = start_two(run_dir, cache=cache)
    out: Any = processes[0].stdout
    while "continuing after step" not in (line := out.readline()):
        assert line, processes[0].communicate()
    for process in processes:
        process.send_signal(signal.SIGTERM)
    assert {stopped_after(process) for process in processes} <= {step + 1, step + 2}


def stopped_after(process: subprocess.Popen[str]) -> int:
    _, err = process.communicate(timeout=60)
    assert process.returncode == 0, err
    found = re.search(r"stopped after step (\d+) of .*; the same command continues this run", err)
    assert found, err
    return int(found[1])


@pytest.mark.parametrize("split", ["train", "test"])
@pytest.mark.parametrize("flags", [(), MESH], ids=["pmap", "mesh"])
def test_image_that_vanishes_for_one_process_is_named_and_costs_no_step(
    flags: tuple[str, ...], split: str, tmp_path: Path
):
    folder, rng = tmp_path / "images", np.random.default_rng(0)
    for i in range(160):
        path = folder / ("test" if i % 5 == 0 else "train") / ("ape", "bee")[i % 2] / f"{i:03}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(rng.integers(256, size=(8, 8, 3), dtype=np.uint8)).save(path)
    flags = (*flags, "--data", "folder", "--data-dir", str(folder), "--batch-size", "8")
    flags = (*flags, "--log-every", "3", "--save-every", "1000", "--epochs", "12")
    cache, run_dir = tmp_path / "cache", tmp_path / "run"
    finish(*start_two(tmp_path / "unbroken", *flags, cache=cache))

    processes = start_two(run_dir, *flags, cache=cache)
    wait_for_rows(run_dir, 5, processes)
    gone = next((folder / split / "bee").iterdir())
    gone.rename(tmp_path / gone.name)
    said = [process.communicate(timeout=60)[1] for process in processes]
    assert [process.returncode for process in processes] == [1, 1]
    errors = [line for err in said for line in err.splitlines() if line.startswith("error: ")]
    assert len(errors) == 2
    assert sum(str(gone) in line for line in errors) == 1
    assert not any("Traceback" in err for err in said)
    assert os.listdir(run_dir / "last") == []  # the whole interval would have been lost

    (tmp_path / gone.name).rename(gone)
    first, _ = finish(*start_two(run_dir, *flags, cache=cache))
    (continued,) = re.findall(r"continuing after step (\d+) of", first)
    assert int(continued) >= 13  # of which the fifth row is
    timeless = ("kind", "step", "loss", "accuracy")
    rows, expected_rows = (
        [[row[name] for name in timeless] for row in read_rows(path / "metrics.jsonl")]
        for path in (run_dir, tmp_path / "unbroken")
    )
    assert rows == expected_rows
    found, expected = (load_variables(path / "last") for path in (run_dir, tmp_path / "unbroken"))
    jax.tree.map(np.testing.assert_array_equal, found, expected)
    assert not [*run_dir.glob("alone-*")]


def wait_for_rows(run_dir: Path, number: int, processes: list[Any]) -> None:
    while len(read_rows(run_dir / "metrics.jsonl")) < number:
        assert all(process.poll() is None for process in processes)
        time.sleep(0.01)


def kill_child(process: subprocess.Popen[str]) -> None:
    """Kills the process that trains, whose parent watches it."""
    children = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
    for child in children:
        os.kill(int(child), signal.SIGKILL)

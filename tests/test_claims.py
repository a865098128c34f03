"""The ledger of claims: when an inequality holds, what is kept of a run, its page, and trainings."""

import math
from functools import partial
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn
from flax.traverse_util import flatten_dict

from benchmarks.claims import ledger, networks, report
from benchmarks.claims.__main__ import main
from benchmarks.claims.claim import Check, Claim, Measured, Places
from benchmarks.claims.networks import SMALL
from benchmarks.claims.statements._constant_rate import Unnormalised, losses_by_rate
from flaxarch.layers import TORCH, Conventions


def seeds_of(**quantities: list[float]) -> list[dict[str, float]]:
    return [dict(zip(quantities, values, strict=True)) for values in zip(*quantities.values(), strict=True)]


def test_interval_covers_the_true_mean_in_95_of_100_samples():
    draws = np.random.default_rng(0).normal(3.0, 2.0, size=(2000, 5))
    found = [Check("a").verdict(seeds_of(a=list(map(float, sample)))) for sample in draws]
    assert abs(np.mean([v.low <= 3 <= v.high for v in found]) - 0.95) < 0.015


def test_difference_is_paired_over_seeds():
    a, b = [1.0, 5.0, 9.0, 13.0], [1.5, 5.6, 9.4, 13.5]  # apart from seed to seed, but always b above a
    assert Check("a", high=0.0, minus="b").verdict(seeds_of(a=a, b=b)).passed
    assert not Check("b", high=0.0, minus="a").verdict(seeds_of(a=a, b=b)).passed
    assert not Check("a", high=7.5).verdict(seeds_of(a=a)).passed  # alone its interval is wide


def test_no_difference_needs_the_whole_interval_inside_the_margin():
    narrow, wide = [0.1, 0.0, -0.1, 0.05], [2.0, -2.0, 1.0, -1.0]
    assert Check("a", -0.5, 0.5).verdict(seeds_of(a=narrow)).passed
    assert not Check("a", -0.5, 0.5).verdict(seeds_of(a=wide)).passed


def test_quantity_without_randomness_has_an_interval_of_a_point():
    verdict = Check("a", 3, 3).verdict([{"a": 3.0}])
    assert verdict.passed
    assert verdict.low == verdict.high == 3
    assert not Check("a", 3, 3).verdict([{"a": 3.5}]).passed


def test_not_a_number_bears_nothing_out():
    assert not Check("a", high=1.0).verdict(seeds_of(a=[0.1, math.nan, 0.2])).passed
    assert not Check("a", low=0.0).verdict([{"a": math.nan}]).passed


def toy(calls: list[int]) -> Claim:
    def measure(seed: int, places: Places) -> Measured:
        del places
        calls.append(seed)
        if seed == 2 and calls.count(2) == 1:
            raise KeyboardInterrupt
        return Measured({"a": seed / 10}, {"curve": [seed, seed + 1]})

    return Claim(
        "A statement.", "A source", "A protocol.", measure, (Check("a", high=1.0),), seeds=3, x="x", y="y"
    )


def test_run_that_was_stopped_goes_on_with_the_seed_that_is_missing(tmp_path: Path, monkeypatch: Any):
    calls: list[int] = []
    monkeypatch.setattr(ledger, "RESULTS", tmp_path)
    monkeypatch.setitem(ledger.CLAIMS, "toy", toy(calls))
    assert report.outcome("toy") == "not run"
    with pytest.raises(KeyboardInterrupt):
        list(ledger.run("toy", Places()))
    assert report.outcome("toy") == "part run"
    list(ledger.run("toy", Places()))
    assert calls == [0, 1, 2, 2]
    assert report.outcome("toy") == "holds"
    kept = ledger.read("toy")
    assert kept is not None
    assert kept["seeds"]["1"]["curves"] == {"curve": [1.0, 2.0]}
    list(ledger.run("toy", Places(), anew=True))
    assert calls == [0, 1, 2, 2, 0, 1, 2]


def test_claim_that_needs_files_says_which_flag(monkeypatch: Any):
    claim = Claim("S.", "S", "P.", lambda *_: Measured({}), (), needs=("cifar10",))
    monkeypatch.setitem(ledger.CLAIMS, "toy", claim)
    with pytest.raises(SystemExit, match="toy needs --cifar10 DIR"):
        list(ledger.run("toy", Places()))


def test_plot_is_drawn_from_what_is_kept(tmp_path: Path, monkeypatch: Any):
    calls = [2]
    monkeypatch.setattr(ledger, "RESULTS", tmp_path)
    monkeypatch.setattr(report, "PLOTS", tmp_path)
    monkeypatch.setattr(report, "PAGE", tmp_path / "claims.md")
    monkeypatch.setattr(report, "CLAIMS", {"toy": toy(calls)})
    monkeypatch.setitem(ledger.CLAIMS, "toy", toy(calls))
    list(ledger.run("toy", Places()))
    report.write()
    assert (tmp_path / "toy.png").read_bytes().startswith(b"\x89PNG")
    text = (tmp_path / "claims.md").read_text()
    assert "| a ≤ 1 | 0.1 | -0.1484 to 0.3484 | holds |" in text
    assert "![A statement.](claims/toy.png)" in text


def test_page_is_what_the_kept_runs_give():
    assert report.PAGE.read_text(encoding="utf-8") == report.page()


@pytest.mark.parametrize("name", ledger.CLAIMS)
def test_claim_says_what_it_is(name: str):
    claim = ledger.CLAIMS[name]
    assert claim.statement.endswith(".")
    assert claim.source
    assert claim.protocol
    assert claim.checks
    assert set(claim.needs) <= set(Places._fields)
    kept = ledger.read(name)
    assert kept is None or all(
        {check.quantity, check.minus or check.quantity} <= set(seed["values"])
        for check in claim.checks
        for seed in kept["seeds"].values()
    )


def test_network_without_batch_norm_is_the_same_but_for_norms_and_biases():
    images = jnp.zeros((1, 16, 16, 3))

    def shapes(conventions: Conventions) -> tuple[dict[str, Any], Any]:
        model = SMALL.resnet(8, conventions=conventions)
        variables = jax.eval_shape(partial(model.init, train=False), jax.random.key(0), images)
        leaves: Any = flatten_dict(variables["params"], sep="/")
        return {name: leaf.shape for name, leaf in leaves.items()}, variables.get("batch_stats", {})

    (normed, statistics), (others, none) = shapes(TORCH), shapes(Unnormalised())
    assert statistics
    assert not none
    assert {name for name in normed if "bn" not in name} < set(others)
    assert all(others[name] == shape for name, shape in normed.items() if name in others)
    assert len(others) == 2 * 8  # kernel and bias of each of 8 layers


class Linear(nn.Module):
    """A convex problem, whose loss falls at low rates and grows without bound at high ones."""

    @nn.compact
    def __call__(self, images: jax.Array, *, train: bool) -> jax.Array:
        del train
        return nn.Dense(3, kernel_init=nn.initializers.zeros)(images.reshape(len(images), -1))


def test_losses_by_rate_are_those_of_the_start_at_none_and_the_worst_where_they_diverge():
    rng = np.random.default_rng(0)
    batches = [
        (jnp.asarray(rng.normal(size=(8, 2, 2, 1)), jnp.float32), jnp.asarray(rng.integers(0, 3, 8)))
        for _ in range(30)
    ]
    none, low, high = losses_by_rate(Linear(), 0, (0.0, 0.01, 1e38), lambda: batches, worst=5.0)
    assert none == pytest.approx(math.log(3))
    assert low < none
    assert high == 5.0


def test_damaged_network_of_the_cache_ends_in_a_sentence(tmp_path: Path):
    places, model = Places(cache=tmp_path), networks.SMALL.resnet(8)
    digest = networks._digest(model, networks.SMALL.training, networks.SMALL)  # pyright: ignore[reportPrivateUsage]
    path = tmp_path / f"{digest}.msgpack"
    for damaged in (b"", b"\xc1", b"\x82\xa9variables"):
        path.write_bytes(damaged)
        with pytest.raises(SystemExit, match="is damaged: delete it"):
            networks.trained(model, 0, places)


def test_missing_data_set_ends_in_a_sentence(tmp_path: Path, monkeypatch: Any):
    here = ["claims", "run", "lesion", "--cifar10", str(tmp_path / "none"), "--cache", str(tmp_path)]
    monkeypatch.setattr("sys.argv", here)
    monkeypatch.setattr(ledger, "RESULTS", tmp_path)
    with pytest.raises(SystemExit, match="no such file or folder"):
        main()

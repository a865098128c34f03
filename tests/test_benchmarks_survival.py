"""The record of the last experiment with runs that are killed."""

import json

import numpy as np

from benchmarks.survival import page
from benchmarks.survival.__main__ import PLANS
from benchmarks.survival.laboratory import TERM, _unequal


def test_the_page_is_what_the_record_gives():
    assert page.PAGE.read_text(encoding="utf-8") == page.page()


def test_no_stop_cost_more_than_the_interval_and_the_save_and_every_run_ended_as_if_unbroken():
    kept = json.loads(page.RESULTS.read_text(encoding="utf-8"))["plans"]
    assert list(kept) == list(PLANS)
    killed, inside = 0, 0
    for name, plan in PLANS.items():
        lives = [life for run in kept[name]["runs"] for life in run["lives"]]
        assert all(run["differences"] == run["unreadable"] == [] for run in kept[name]["runs"])
        for life in lives:
            if life["stop"] == TERM:
                assert (life["status"], life["lost"]) == (0, 0)
            elif not life["half_written"]:
                assert life["lost"] <= plan.save_every
        killed += sum(life["status"] == -9 for life in lives)
        inside += sum(bool(life["half_written"]) for life in lives)
    assert killed >= 30
    assert inside >= 10
    assert sum(plan.stops[TERM] for plan in PLANS.values()) == 5


def test_a_bit_or_a_leaf_that_differs_is_noticed():
    tree = {"a": np.zeros(3, np.float32), "b": np.float32(0)}
    assert _unequal(tree, dict(tree)) == []
    assert _unequal(tree, tree | {"a": -tree["a"]}) == ["['a']"]  # equal as numbers
    assert _unequal(tree, {"a": tree["a"]}) == ["['b']"]

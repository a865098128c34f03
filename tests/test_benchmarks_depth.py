"""What the kept studies of depth must show, whatever machine they ran on."""

import json

import numpy as np

from benchmarks import depth


def test_kept_spectra_are_whole_and_kept_lesions_one_program():
    kept = json.loads(depth.KEPT.read_text(encoding="utf-8"))
    paths = [study["paths"] for study in kept.values() if "paths" in study]
    lesions = [study["lesions"] for study in kept.values() if "lesions" in study]
    subnetworks = [study["subnetworks"] for study in kept.values() if "subnetworks" in study]
    assert paths
    assert lesions
    assert subnetworks
    for found in paths:
        assert found["sum_against_autodiff"] < 1e-5
        assert max(found["interference"]) < 1.001
        assert found["exact_seconds"][1] < found["sampling_seconds"]
    for found in lesions:
        assert max(found["accuracy"]) <= found["whole"][0]
        assert found["compilations"] == [1, 0]
    for found in subnetworks:
        np.testing.assert_allclose(sum(found["variance_by_order"]), 1, atol=1e-3)
        gained = found["accuracy_by_kept"][-1] - found["accuracy_by_kept"][0]
        np.testing.assert_allclose(sum(found["shapley"]), gained, atol=1e-3)
        times = found["seconds_for_8_images"]
        assert times["doubling"] < min(times["row by row"], times["vmap"])

"""The examples in the docstrings of the public names."""

from __future__ import annotations

import doctest
import sys

import pytest

import panoptic_occ

OF_A_RUN = {"Prediction", "Predictor", "load"}  # need a trained one, see end_to_end/test_predictor.py


@pytest.mark.parametrize("name", sorted(set(panoptic_occ.__all__) - {"__version__"} - OF_A_RUN))
def test_examples(name: str) -> None:
    value = getattr(panoptic_occ, name)
    names = {
        **vars(sys.modules[value.__module__]),
        **{each: getattr(panoptic_occ, each) for each in panoptic_occ.__all__},
    }
    tests = doctest.DocTestFinder(recurse=True).find(value, name, globs=names)
    results = [doctest.DocTestRunner().run(test) for test in tests]
    assert sum(result.attempted for result in results), f"{name} has no example"
    assert not any(result.failed for result in results)

"""The cases the project is judged by, real logits, and other sizes: every contender, interleaved."""

import pytest

from .. import cases, machine


@pytest.mark.parametrize("case", cases.goal_cases(), ids=lambda case: case.name)
def test_goal(measure, case):
    measure("One row", {case.name: case})


@pytest.mark.parametrize("case", cases.trace_cases(), ids=lambda case: case.name)
def test_trace(measure, case):
    measure("Real logits", {case.name: case})


@pytest.mark.parametrize("case", cases.hard_cases(), ids=lambda case: case.name)
def test_hard(measure, case):
    measure("Hard rows", {case.name: case})


@pytest.mark.parametrize("case", cases.shape_cases(machine.cores()), ids=lambda case: case.name)
def test_shape(measure, case):
    measure("Sizes", {case.name: case})

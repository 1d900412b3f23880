"""How long a training takes, said before it has taken long; and heads as wide as their features."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
import torch
from test_tasks import FAST, maps, task_of, trial  # noqa: F401

from gate_cache.core.progress import Silent
from gate_cache.learn.features.native import NativeMaps
from gate_cache.learn.fit import pace
from gate_cache.learn.fit.pace import Pace, about
from gate_cache.learn.fit.trials import FitSession, fit_trials
from gate_cache.manifest.heads import Sizes, head_of, parse_head


class Clock:
    """Seconds that pass when told."""

    def __init__(self) -> None:
        self.now = 7.0

    def __call__(self) -> float:
        return self.now


def told(steps: int, every: int, seconds: list[float], validation: float = 0.0) -> list[str]:
    """What is said of steps that take so long, validated after each `every` of them."""
    clock, said = Clock(), list[str]()
    of = Pace(said.append, "training", steps, every, clock)
    for number, took in enumerate(seconds, 1):
        clock.now += took
        of.step()
        if number % every == 0:
            clock.now += validation
            of.validated()
    return said


def test_the_first_step_is_not_measured_and_the_rest_is_extrapolated() -> None:
    assert told(100, 1000, [60, 2, 2, 1]) == [
        "training: about 3 min for 96 steps more, steps alone"]  # 5 s in 3 steps


def test_what_is_long_names_the_way_out() -> None:
    (line,) = told(10_000, 1000, [9, 2.5, 2.5, 2.5])
    assert line == ("training: about 6.9 h for 9997 steps more, steps alone; fewer train.steps"
                    " (--steps) or a smaller head take less: 240 steps about 10 min")


def test_validations_are_no_steps_and_are_told_where_they_take_long() -> None:
    steps, both = told(100, 2, [0, 1, 1, 4, 1, 1], 40.0)
    assert "about 3 min for 96 steps more, steps alone" in steps  # 1, 1 and 4 s, not 40 s
    assert both.startswith("training: about 35 min for 96 steps more, validations included; fewer")
    assert "train.validate_steps" in both and both.endswith(" 27 steps about 10 min")
    assert len(told(100, 2, [0, 1, 1, 4, 1, 1], 0.5)) == 1


@pytest.mark.parametrize("seconds", [[1.0], [1.0, 0.1, 0.1], [1.0, 9.0]])
def test_what_is_over_soon_is_not_told(seconds: list[float]) -> None:
    assert told(len(seconds), 1000, seconds) == []


@pytest.mark.parametrize(("seconds", "text"), [
    (4.6, "5 s"), (89, "89 s"), (90, "2 min"), (5399, "90 min"), (12_240, "3.4 h")])
def test_times_for_people(seconds: float, text: str) -> None:
    assert about(seconds) == text


def test_a_training_says_it(maps: NativeMaps, monkeypatch: pytest.MonkeyPatch) -> None:  # noqa: F811
    lines = list[str]()
    show = Silent()
    show.say = lines.append  # type: ignore[method-assign, assignment]
    monkeypatch.setattr(pace, "MEASURED", 1e-9)
    task = task_of("classifier", maps)
    fit_trials([trial("classifier", task)], task, False, FitSession(show, "training"))
    assert lines[0].startswith("training: about ")
    left = int(lines[0].split(" steps more")[0].split()[-1])
    assert left == FAST["classifier"]["steps"] - 2


@pytest.mark.parametrize(("levels", "given", "width"), [
    ((1280, 1280, 640), None, 512), ((128, 96, 64), None, 128), ((128, 96, 64), 8, 8)])
def test_upernet_is_no_wider_than_its_features(levels: tuple[int, ...], given: int | None,
                                               width: int) -> None:
    options: Any = parse_head({"name": "upernet", "decoder_channels": given})
    with torch.device("meta"):
        module = head_of("upernet").build(options, Sizes(
            2, sum(levels), levels, level_tokens=(0, 0, 0), classes=3))
    config = SimpleNamespace(**module.decoder.config.to_dict())
    assert (config.hidden_size, config.auxiliary_channels) == (width, width // 2)

"""Which passes are shared: by combos of the same settings, by ControlNets, and within a batch."""

from __future__ import annotations

import json
from typing import Any

from gate_cache.core.features import MapSpec
from gate_cache.diffusion.passes.schedule import PassGroup, Pieces, Wanted, schedule
from gate_cache.manifest.specs import Combo

UP, ATTENTION = MapSpec("up2", "conv", 8, 4), MapSpec("attn2", "attention", 0, 4)
CONTROL = {"source": "canny"}


def wanted(name: str, prompt: str = "a photo", spec: MapSpec = UP, **settings: Any) -> Wanted:
    combo = Combo.model_validate({"prompt": prompt, **settings})
    return Wanted.named(name, combo, (spec,))


def lanes(*combos: Wanted, rows: int = 3) -> list[PassGroup]:
    def count_tokens(text: str, _row: int) -> int:
        return 77 * (1 + len(text) // 50)

    return schedule([(c, range(rows)) for c in combos], count_tokens)


def names(lane: PassGroup) -> list[list[str]]:
    return [[r.combo.name for r in readers] for readers in lane.readers.values()]


def test_seeds_and_prompts_of_one_length_fill_the_same_batches() -> None:
    (lane,) = lanes(wanted("a"), wanted("b", seed=1), wanted("c", "a horse"))
    assert len(lane.items) == lane.passes == lane.halves == 9
    assert [i.row for i in lane.items] == [0, 1, 2] * 3


def test_other_weights_times_and_lengths_are_other_lanes() -> None:
    long = "a very long prompt that takes more than seventy-seven tokens, with many more words"
    found = lanes(wanted("a"), wanted("b", t=100), wanted("c", lora={"source": "x"}),
                  wanted("d", lora={"source": "x", "scale": 0.5}), wanted("e", long))
    assert len(found) == 5
    assert [bool(lane.common.uses) for lane in found] == [False, False, False, True, True]


def test_combos_of_the_same_settings_share_a_pass() -> None:
    (lane,) = lanes(wanted("conv"), wanted("attn", spec=ATTENTION))
    assert lane.passes == 3 and names(lane) == [["conv", "attn"]]
    assert {s.name for s in lane.specs(lane.tails[0])} == {"up2", "attn2"}


def test_combos_that_differ_in_controlnet_share_the_down_half() -> None:
    (lane,) = lanes(wanted("plain"), wanted("control", controlnet=CONTROL),
                    wanted("half", controlnet={**CONTROL, "scale": 0.5}))
    assert (lane.passes, lane.halves) == (9, 3)
    scales = [[json.loads(use.key)[0]["scale"] for use in tail] for tail in lane.tails]
    assert scales == [[], [0.5], [1.0]]
    assert names(lane) == [["plain"], ["half"], ["control"]]


def test_what_is_denoised_first_shares_no_half() -> None:
    steps = {"from": 60, "steps": 2}
    found = lanes(wanted("a", denoise=steps), wanted("b", denoise=steps, controlnet=CONTROL))
    assert [(lane.passes, lane.halves) for lane in found] == [(9, 9), (9, 9)]


def test_a_row_that_only_some_combos_lack_is_computed_for_these() -> None:
    found = schedule([(wanted("plain"), [0, 1]), (wanted("control", controlnet=CONTROL), [1, 2])],
                     lambda _text, _row: 77)
    shared = {tuple(i.row for i in lane.items): names(lane) for lane in found}
    assert shared == {(0,): [["plain"]], (1,): [["plain"], ["control"]], (2,): [["control"]]}
    assert sum(len(r.rows) for lane in found for rs in lane.readers.values() for r in rs) == 4


def test_each_distinct_piece_is_counted_once() -> None:
    steps = {"denoise": {"from": 60, "steps": 2}, "guidance": {"scale": 2.0, "negative": "blurry"}}
    found = lanes(wanted("plain"), wanted("other", seed=1), wanted("attn", spec=ATTENTION),
                  wanted("control", controlnet=CONTROL),
                  wanted("half", controlnet={**CONTROL, "scale": 0.5}),
                  wanted("fine", controlnet={**CONTROL, "low": 50}),
                  wanted("lora", lora={"source": "x"}), wanted("steps", **steps), rows=1)
    assert Pieces.of(found) == Pieces(
        texts=3,  # "a photo" plainly and with the LoRA, "blurry"
        noised=3,  # seeds 0 and 1 at t = 50, seed 0 at t = 60
        edges=2, controlnet_passes=3,
        unet_passes=4 + 1 + 1 + 5,  # plain and its three ControlNets, other, lora, steps
        halves=1 + 1 + 1 + 5)

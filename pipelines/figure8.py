"""Figure 8: each technique without amalgamation, on one split of Horse-21."""

from pipelines.command_line import main
from pipelines.recipe import IOU, Part, Recipe, Trials
from pipelines.settings import horse_pixels, toy_pixels

TRIALS: Trials = [{"name": name, "combos": [combo], "assigners": 1} for name, combo in (
    ("baseline", "plain-0"), ("prompt", "prompt-0"), ("ControlNet", "control-0"),
    ("LoRA", "lora-0"), ("prompt, ControlNet", "both-0"), ("all three", "all-0"))]
RECIPE = Recipe(
    "figure8", "Figure 8: each technique without amalgamation",
    "One feature each: none of the techniques, each alone, several at once. The paper's mIoU are"
    " part of a picture. Pictures of these features: gate-cache show.",
    [Part("label-scarce segmentation", IOU, toy_pixels(TRIALS), horse_pixels(TRIALS),
          full=("prompt", "ControlNet", "LoRA", "all three"), over=("baseline",))])

if __name__ == "__main__":
    main(RECIPE)

"""Table 4: another backbone, SDXL, on Horse-21."""

from pipelines.command_line import main
from pipelines.recipe import IOU, Part, Recipe, Source, Trials
from pipelines.settings import FOLDS, toy_pixels

TRIALS: Trials = [{"name": "three plain", "combos": ["plain-0", "plain-1", "plain-2"]},
          {"name": "two plain, prompt", "combos": ["plain-0", "plain-1", "prompt-0"]},
          {"name": "two plain, ControlNet", "combos": ["plain-0", "plain-1", "control-0"]},
          {"name": "plain, prompt, ControlNet", "combos": ["plain-0", "prompt-0", "control-0"]}]
PIXELS = {"head": "pixel-mlp", "attention": False}
RECIPE = Recipe(
    "table4", "Table 4: another backbone",
    "Three features each, of which none, one or two have a technique. Without the real SDXL this is"
    " the tiny model, so it asks the same of no other backbone.",
    [Part("label-scarce segmentation", IOU, toy_pixels(TRIALS),
          Source("horse-21-sdxl.yaml", TRIALS, PIXELS, folds=FOLDS[:1]),
          {"three plain": {"mIoU": "53.40"}, "two plain, prompt": {"mIoU": "53.61"},
           "two plain, ControlNet": {"mIoU": "53.66"},
           "plain, prompt, ControlNet": {"mIoU": "53.96"}},
          full=("plain, prompt, ControlNet",), over=("three plain",))])

if __name__ == "__main__":
    main(RECIPE)

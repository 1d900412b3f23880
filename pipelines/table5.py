"""Table 5: what amalgamation adds on Horse-21."""

from pipelines.command_line import main
from pipelines.recipe import IOU, Part, Recipe, Trials
from pipelines.settings import horse_pixels, toy_pixels

TRIALS: Trials = [{"name": "basic", "combos": ["plain-0"]},
          {"name": "basic, basic*", "combos": ["plain-0", "later-0"]},
          {"name": "basic, prompt", "combos": ["plain-0", "prompt-0"]},
          {"name": "basic, ControlNet", "combos": ["plain-0", "control-0"]},
          {"name": "basic, LoRA", "combos": ["plain-0", "lora-0"]},
          {"name": "all but basic*", "combos": ["plain-0", "prompt-0", "control-0", "lora-0"]}]
PAPER = ("58.13", "59.44", "60.12", "60.02", "60.27", "60.74")
RECIPE = Recipe(
    "table5", "Table 5: what amalgamation adds",
    "One feature, two of them, four; basic* is of a later timestep. Techniques one at a time, no"
    " attention, one split. That the"
    " paper's figures belong to these rows, in this order, is an assumption.",
    [Part("label-scarce segmentation", IOU, toy_pixels(TRIALS), horse_pixels(TRIALS),
          {str(t["name"]): {"mIoU": f} for t, f in zip(TRIALS, PAPER, strict=True)},
          full=("all but basic*",), over=("basic", "basic, basic*"))])

if __name__ == "__main__":
    main(RECIPE)

"""Figure 3: prompts of high and of low quality, on Horse-21 and CIFAR-10."""

from pipelines.command_line import main
from pipelines.recipe import IOU, Part, Recipe, Source, Trials
from pipelines.settings import horse_pixels, toy_classes, toy_pixels

TRIALS: Trials = [{"name": f"{quality}-quality prompt", "combos": [f"{quality}-0"], "assigners": 1}
          for quality in ("high", "low")]
RECIPE = Recipe(
    "figure3", "Figure 3: does a prompt that fits the images' quality help?",
    "Single features whose prompt says high or low quality. In the paper Horse-21, of high quality,"
    " gains from the first and CIFAR-10, of low quality, from the second (no figures are printed)."
    " Toyworld is 70 % of high quality.",
    [Part("segmentation", IOU, toy_pixels(TRIALS), horse_pixels(TRIALS, one_fold=False)),
     Part("classification", {"accuracy": "accuracy"}, toy_classes(TRIALS),
          Source("cifar-10.yaml", TRIALS, {"head": "classifier"}))])

if __name__ == "__main__":
    main(RECIPE)

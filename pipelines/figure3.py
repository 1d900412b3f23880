"""Figure 3: prompts of high and of low quality, on Horse-21 and CIFAR-10."""

from pipelines.command_line import main
from pipelines.recipe import IOU, Part, Recipe, Source, Trials
from pipelines.settings import horse_pixels, toy_classes, toy_pixels

HIGH, LOW = "high-quality prompt", "low-quality prompt"
TRIALS: Trials = [{"name": name, "combos": [combo], "assigners": 1}
                  for name, combo in ((HIGH, "high-0"), (LOW, "low-0"))]
RECIPE = Recipe(
    "figure3", "Figure 3: does a prompt that fits the images' quality help?",
    "Single features whose prompt says high or low quality. In the paper Horse-21, of high quality,"
    " gains from the first and CIFAR-10, of low quality, from the second (no figures are printed)."
    " Toyworld's masks are of pictures of which 70 % are of high quality, its classes of pictures"
    " that all have a flaw.",
    [Part("segmentation", IOU, toy_pixels(TRIALS), horse_pixels(TRIALS, one_fold=False),
          full=(HIGH,), over=("baseline", LOW)),
     Part("classification", {"accuracy": "accuracy"}, toy_classes(TRIALS, style="flawed"),
          Source("cifar-10.yaml", TRIALS, {"head": "classifier"}),
          full=(LOW,), over=("baseline", HIGH))])

if __name__ == "__main__":
    main(RECIPE)

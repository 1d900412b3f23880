"""Table 1, right: label-scarce segmentation on Horse-21 and Bedroom-28."""

from pipelines.command_line import main
from pipelines.recipe import GATE, IOU, Part, Recipe, Source
from pipelines.settings import FOLDS, toy_pixels

HORSES = [{"name": "GATE", "combos": ["prompt-0", "control-0", "lora-0", "lora-1"]}]
BEDROOMS = [{"name": "GATE", "combos": ["prompt-0", "control-0", "lora-0"]}]
TOYS = toy_pixels([GATE], parts=True)
PIXELS = {"head": "pixel-mlp", "baseline": "plain-0"}
RECIPE = Recipe(
    "table1-right", "Table 1, right: label-scarce segmentation",
    "Ten pixel MLPs on a few labelled images, mean over five splits. The paper's rows, DDPM and"
    " GATE, both have features of an unconditional DDPM: a manifest with `extra` combos adds them"
    " (docs/datasets.md).",
    [Part("label-scarce segmentation", IOU, TOYS,
          Source("horse-21.yaml", HORSES, PIXELS, conv={"plain-0": {"prompt": "a horse"}},
                 folds=FOLDS), {"GATE": {"mIoU": "67.2 ± 1.1"}}),
     Part("label-scarce segmentation, bedrooms", IOU, None,
          Source("bedroom-28.yaml", BEDROOMS, PIXELS, conv={"plain-0": {"prompt": "a bedroom"}},
                 folds=FOLDS), {"GATE": {"mIoU": "53.1 ± 2.7"}})])

if __name__ == "__main__":
    main(RECIPE)

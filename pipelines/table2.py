"""Table 2: semantic segmentation with UPerNet on ADE20K and Cityscapes."""

from pipelines.command_line import main
from pipelines.recipe import GATE, Part, Recipe, Source, Trials
from pipelines.settings import toy_pixels

COLUMNS = {"mIoU": "mIoU", "aAcc": "aAcc", "mAcc": "mAcc"}
TRIALS: Trials = [{"name": "GATE", "combos": ["prompt-0", "both-0", "both-1"]}]
TRAIN = {"head": "upernet", "attention": False, "baseline": "plain-0"}
LEVELS = {"maps": ["up0", "up1", "up2"]}
RECIPE = Recipe(
    "table2", "Table 2: semantic segmentation",
    "UPerNet on three levels of frozen features; all rows are trained as long.",
    [Part("segmentation", COLUMNS, toy_pixels([GATE]),
          Source("ade20k.yaml", TRIALS, TRAIN, conv={"plain-0": {"prompt": "a photo", **LEVELS}}),
          {"GATE": {"mIoU": "40.51", "aAcc": "79.68", "mAcc": "54.90"}}),
     Part("segmentation, streets", COLUMNS, None,
          Source("cityscapes.yaml", TRIALS, TRAIN,
                 conv={"plain-0": {"prompt": "a photo", **LEVELS}}),
          {"GATE": {"mIoU": "64.20", "aAcc": "92.83", "mAcc": "76.98"}})])

if __name__ == "__main__":
    main(RECIPE)

"""Table 3: IP-Adapter against ControlNet on Horse-21."""

from pipelines.command_line import main
from pipelines.recipe import IOU, SIX, Part, Recipe
from pipelines.settings import horse_pixels, toy_pixels

CONTROL = {"name": "only ControlNet", "combos": ["plain-0", "control-0"]}
REAL = [{"name": "only IP-Adapter", "combos": ["plain-0", "ip-0"]}, CONTROL,
        {"name": "full", "combos": ["prompt-0", "control-0", "lora-0", "lora-1"]}]
RECIPE = Recipe(
    "table3", "Table 3: IP-Adapter against ControlNet",
    "The plain feature with one technique beside it, or all that GATE selects. No attention. The"
    " tiny model has no IP-Adapter: that row needs the real one.",
    [Part("label-scarce segmentation", IOU,
          toy_pixels([CONTROL, {"name": "full", "combos": SIX}]),
          horse_pixels(REAL, one_fold=False),
          {("baseline", "pixel-mlp"): {"mIoU": "65.0 ± 0.8"},
           "only IP-Adapter": {"mIoU": "65.8 ± 1.3"}, "only ControlNet": {"mIoU": "66.2 ± 1.2"},
           "full": {"mIoU": "67.2 ± 1.1"}},
          full=("only ControlNet", "full"), over=("baseline", "only ControlNet"))])

if __name__ == "__main__":
    main(RECIPE)

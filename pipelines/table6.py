"""Table 6: the number of weight assigners, on Horse-21."""

from pipelines.command_line import main
from pipelines.recipe import IOU, SIX, Part, Recipe, Source
from pipelines.settings import FOLDS, TOY_PIXELS, toy_pixels

NUMBERS = (1, 2, 3, 4)
HORSE = ["prompt-0", "control-0", "lora-0", "lora-1"]
PAPER = {1: ("64.58", "63.91"), 2: ("65.39", "65.68"), 3: ("65.44", "65.84"), 4: ("65.19", "65.73")}


def trials(combos: list[str], steps: tuple[int, int]) -> list[dict[str, object]]:
    """Each number trained as long, and twice as long."""
    return [{"name": f"{n} assigner{'s' if n > 1 else ''}, {k} × steps", "combos": combos,
             "assigners": n, "steps": steps[k - 1], "validate_steps": steps[k - 1]}
            for k in (1, 2) for n in NUMBERS]


PIXELS = {"head": "pixel-mlp", "baseline": "prompt-0"}
RECIPE = Recipe(
    "table6", "Table 6: the number of weight assigners",
    "GATE with one to four assigners, trained as long and twice as long.",
    [Part("label-scarce segmentation", IOU,
          toy_pixels(trials(SIX, (50, TOY_PIXELS["steps"])), baseline="prompt-0"),
          Source("horse-21.yaml", trials(HORSE, (10_000, 20_000)), PIXELS, folds=FOLDS),
          {f"{n} assigner{'s' if n > 1 else ''}, {k + 1} × steps": {"mIoU": PAPER[n][k]}
           for n in NUMBERS for k in (0, 1)},
          full=("2 assigners, 2 × steps",), over=("1 assigner, 2 × steps",))])

if __name__ == "__main__":
    main(RECIPE)

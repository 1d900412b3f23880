"""Table 1, left: semantic correspondence on SPair-71k."""

from pipelines.command_line import main
from pipelines.recipe import PCK, SIX, TOY, Part, Recipe, Source, Trials
from pipelines.settings import FEWER_PAIRS, STANDARDISED, TOY_PAIRS

TRIALS: Trials = [{"name": "GATE, head nn", "combos": SIX},
          {"name": "GATE, head conv", "combos": SIX, "head": "conv"}]
TOY_TRIALS: Trials = [TRIALS[0], {**TRIALS[1], "head": {"name": "conv", **STANDARDISED},
                                  "steps": 300, "validate_steps": 100}]
REPAIRS = {"dusk": "at dusk", "flawed": "of low quality", "covered": "with covered objects"}
"""Pictures in which there is more to repair, by toyworld's style."""
FULL = ("GATE, head nn", "GATE, head conv")
RECIPE = Recipe(
    "table1-left", "Table 1, left: semantic correspondence",
    "A single feature without techniques against GATE, heads nn and conv. By point, on all pairs of"
    " the test split, of toyworld 16 of each picture. There also where there is more to repair: at"
    " dusk, the style that the LoRA was trained on, on pictures of low quality, and with something"
    " before every object.",
    [Part(
        "correspondence", PCK,
        toy=Source(TOY, TOY_TRIALS, TOY_PAIRS, dataset=FEWER_PAIRS),
        real=Source("spair.yaml", TRIALS, {"baseline": "plain-0"},
                    conv={"plain-0": {"prompt": "a photo"}}),
        paper={("baseline", "nn"): {"PCK@0.1 img": "61.15", "PCK@0.1 bbox": "51.66"},
               "GATE, head nn": {"PCK@0.1 img": "64.47", "PCK@0.1 bbox": "55.72"},
               ("baseline", "conv"): {"PCK@0.1 img": "73.96", "PCK@0.1 bbox": "65.74"},
               "GATE, head conv": {"PCK@0.1 img": "76.60", "PCK@0.1 bbox": "69.10"}},
        full=FULL),
     *(Part(f"correspondence {title}", PCK,
            Source(TOY, TOY_TRIALS if style == "dusk" else TRIALS[:1], TOY_PAIRS,
                   dataset={**FEWER_PAIRS, "style": style, "test": 256}), None, full=FULL)
       for style, title in REPAIRS.items())])

if __name__ == "__main__":
    main(RECIPE)

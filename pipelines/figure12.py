"""Figure 12: what both regularisers do to the weights, on SPair-71k."""

from pipelines.command_line import main
from pipelines.recipe import BASELINES, PCK, SIX, TOY, WEIGHTS, Part, Recipe, Source, Trials
from pipelines.settings import FEWER_PAIRS, TOY_PAIRS

TRIALS: Trials = [{"name": "without regularisation", "combos": SIX, "gamma1": 0.0, "gamma2": 0.0},
          {"name": "with regularisation", "combos": SIX}]
RECIPE = Recipe(
    "figure12", "Figure 12: what both regularisers do to the weights",
    "Two assigners, head nn. Largest and second largest weight (sparsity), and how often the two"
    " assigners agree (diversity), over the images of the test split.",
    [Part("weights", {**WEIGHTS, **PCK}, Source(TOY, TRIALS, TOY_PAIRS, dataset=FEWER_PAIRS),
          Source("spair.yaml", TRIALS),
          full=("with regularisation",), over=(*BASELINES, "without regularisation"))])

if __name__ == "__main__":
    main(RECIPE)

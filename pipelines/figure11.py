"""Figure 11: the weights of both regularisers, on SPair-71k."""

from pipelines.command_line import main
from pipelines.recipe import BASELINES, PCK, SIX, TOY, Part, Recipe, Source, Trials
from pipelines.settings import FEWER_PAIRS, TOY_PAIRS

TOYS = {"gamma1": [0.0, 0.05, 0.2], "gamma2": [0.0, 0.05, 0.2]}
REAL = {"gamma1": [0.0, 0.05, 0.1, 0.2], "gamma2": [0.0, 0.05, 0.1, 0.2]}
TRIALS: Trials = [{"name": "GATE", "combos": SIX}]
RECIPE = Recipe(
    "figure11", "Figure 11: the weights of both regularisers",
    "A grid over γ1 (sparsity) and γ2 (diversity), head nn. The paper's figures are a"
    " picture; it finds that both help, and need tuning.",
    [Part("correspondence", PCK, Source(TOY, TRIALS, {**TOY_PAIRS, "steps": 50}, TOYS,
                             dataset=FEWER_PAIRS),
          Source("spair.yaml", TRIALS, {}, REAL),
          full=("GATE,gamma1=0.05,gamma2=0.05",), over=(*BASELINES, "GATE,gamma1=0.0,gamma2=0.0"))])

if __name__ == "__main__":
    main(RECIPE)

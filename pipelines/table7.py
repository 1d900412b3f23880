"""Table 7: image classification on CIFAR-10."""

from pipelines.command_line import main
from pipelines.recipe import GATE, Part, Recipe, Source
from pipelines.settings import toy_classes

REAL = ["low-0", "lora-0", "control-0"]
ONE = {"prompt": "a photo", "maps": ["up1"]}
RECIPE = Recipe(
    "table7", "Table 7: image classification",
    "Pooled features and a linear layer: one without techniques against GATE. The paper says"
    " neither which features nor which classifier.",
    [Part("classification", {"accuracy": "accuracy"}, toy_classes([GATE]),
          Source("cifar-10.yaml", [{"name": "GATE", "combos": REAL}], {"head": "classifier"},
                 conv={"lora-0": {**ONE, "lora": {"source": "cifar-10-lora.safetensors"}},
                       "control-0": {**ONE, "controlnet":
                                     {"source": "lllyasviel/control_v11p_sd15_canny"}}}),
          {("baseline", "classifier"): {"accuracy": "94.55"}, "GATE": {"accuracy": "95.21"}})])

if __name__ == "__main__":
    main(RECIPE)

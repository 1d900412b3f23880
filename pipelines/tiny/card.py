"""The model card: sample pictures into docs/, figures and facts into the model's README."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from gate_cache.diffusion.techniques.controlnet import canny
from gate_cache.toyworld import CATEGORIES
from pipelines.gate_question import report
from pipelines.tiny import autoencoder, controlnet, loras, measure
from pipelines.tiny.pictures import Pictures, Pixels

DOCS = Path(__file__).parents[2] / "docs"
SCALE, LABEL = 2, 18
QUESTIONS = {
    "gate-question-tiny": "toyworld",
    "gate-question-dusk-tiny": "toyworld at dusk, the LoRAs' style",
    "gate-question-willow-tiny": "PF-WILLOW, photographs",
    "gate-question-willow-random": "PF-WILLOW, the same model with random weights",
}
"""What `pipelines.gate_question` leaves in the work folder, and what the card calls it."""


def pictures(folder: Path, held_out: dict[str, Pictures]) -> None:
    """Draw the card's grids of pictures."""
    pipe = measure.load(folder)
    drawn, photos = held_out["toyworld"].pixels, held_out["cifar"].pixels
    samples, _ = measure.sampled(pipe, 48)
    grid("tiny-samples", [samples[i : i + 8] for i in range(0, 48, 8)], list(CATEGORIES))
    both = np.concatenate([drawn[:8], photos[:4]])
    inputs = np.asarray(drawn[16:24])
    edges = canny(inputs, *controlnet.THRESHOLDS)[..., None].repeat(3, -1)
    made = [measure.img2img(pipe, inputs, net) for net in (None, measure.load_controlnet(folder))]
    grid("tiny-controlnet", [inputs, edges, *made], list(CATEGORIES))
    grid("tiny-autoencoder", [both, autoencoder.reconstructed(pipe.vae, both)],
         [*CATEGORIES, *held_out["cifar"].categories[:4]])
    rows = [loras.style_pictures("train", 8)[0], samples[:8]]
    for name in loras.RECIPES:
        pipe.load_lora_weights(folder / "loras", weight_name=f"{name}.safetensors")
        rows.append(measure.sampled(pipe, 8)[0])
        pipe.unload_lora_weights()
    grid("tiny-loras", rows, list(CATEGORIES))


def grid(name: str, rows: list[Pixels], labels: list[str]) -> None:
    """Write rows of pictures, enlarged, under a line of labels."""
    body = np.concatenate([np.concatenate(list(row), 1) for row in rows])
    body = cv2.resize(body, None, fx=SCALE, fy=SCALE, interpolation=cv2.INTER_NEAREST)
    head = np.full((LABEL, body.shape[1], 3), 255, np.uint8)
    side = body.shape[1] // len(labels)
    for i, label in enumerate(labels):
        cv2.putText(head, label, (i * side + 4, LABEL - 5), cv2.FONT_HERSHEY_SIMPLEX, 0.42,
                    (40, 40, 40), 1, cv2.LINE_AA)
    cv2.imwrite(str(DOCS / f"{name}.jpg"), np.concatenate([head, body])[:, :, ::-1],
                [cv2.IMWRITE_JPEG_QUALITY, 88])


def trained(work: Path, stage: str) -> str:
    """Steps and minutes of a stage, from its log."""
    lines = [json.loads(line) for line in (work / f"{stage}.jsonl").read_text().splitlines()]
    steps = {line["step"]: line["seconds"] for line in lines}
    return f"{max(steps)} steps, {sum(steps.values()) / 60:.0f} min"


def write(folder: Path, work: Path, modules: dict[str, Any], facts: dict[str, Any]) -> None:
    """Write the README of the model's folder from ``figures.json`` and the training logs."""
    figures = json.loads((folder / "figures.json").read_text(encoding="utf-8"))
    samples, control, lora = figures["samples"], figures["controlnet"], figures["loras"]
    template = Path(__file__).with_suffix(".md").read_text(encoding="utf-8")
    text = template.format(
        parts=_parts(folder, work, modules), psnr_toy=figures["autoencoder_psnr_db"]["toyworld"],
        psnr_cifar=figures["autoencoder_psnr_db"]["cifar"], samples=samples["count"],
        steps=samples["steps"], guidance=samples["guidance"], recognised=samples["recognised"],
        accuracy=samples["classifier_accuracy_test"],
        accuracy_vae=samples["classifier_accuracy_reconstructed"],
        text=_text_rows(figures["text_effect"]), lora_count=loras.COUNT, loras=_lora_rows(lora),
        question=_question(work), **control, **facts)
    (folder / "README.md").write_text(text, encoding="utf-8")


def _parts(folder: Path, work: Path, modules: dict[str, Any]) -> str:
    """One row a part: its class, size and training."""
    stages = {"vae": "autoencoder", "unet": "denoiser", "text_encoder": "denoiser"}
    rows = []
    for name, module in modules.items():
        count = sum(p.numel() for p in module.parameters()) / 1e6
        effort = trained(work, stages.get(name, name))
        rows.append(f"| {name} | {type(module).__name__} | {count:.2f} M | {effort} |")
    for name, recipe in loras.RECIPES.items():
        size = (folder / "loras" / f"{name}.safetensors").stat().st_size / 2e6
        rows.append(f"| loras/{name} | rank {recipe.rank}, convolutions too | {size:.2f} M"
                    f" | {trained(work, recipe.plan.stage)} |")
    return "\n".join(rows)


def _question(work: Path) -> str:
    found = {title: work / f"{name}.json" for name, title in QUESTIONS.items()}
    tables = [f"**{title}**\n\n{report(json.loads(file.read_text(encoding='utf-8')))}"
              for title, file in found.items() if file.exists()]
    return "\n\n".join(tables) or "Not measured yet with these weights."


def _text_rows(effect: dict[str, list[dict[str, float]]]) -> str:
    pairs = zip(effect["toyworld"], effect["cifar"], strict=True)
    return "\n".join(
        f"  | {a['t']} | {a['right']:.4f} | {a['shuffled']:.4f} | {a['z']:.1f}"
        f" | {b['right']:.4f} | {b['shuffled']:.4f} | {b['z']:.1f} |" for a, b in pairs)


def _lora_rows(figures: dict[str, Any]) -> str:
    return "\n".join(
        f"  | {name} | {figures[name]['own_change_percent']:+.1f} %"
        f" | {figures[name]['held_out_change_percent']:+.1f} % |" for name in loras.RECIPES)

"""Settings, data, and what it takes to make the same again."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from gate_cache.core.errors import counted
from gate_cache.core.fingerprint import file_sha256
from gate_cache.learn.metrics.pck import metric_name
from gate_cache.report.html.compare import Verdict
from gate_cache.report.html.page import (
    Child,
    Column,
    Html,
    PageRow,
    Section,
    code,
    facts,
    fold,
    heading,
    join,
    paragraph,
    section,
    table,
)
from gate_cache.report.html.record import Record, Result
from gate_cache.report.html.trials import spelled
from gate_cache.report.terminal.console import clock
from gate_cache.training.run_files import WEIGHTS, trial_file

FIRST = ("head", "assigners", "gamma1", "gamma2", "steps", "pairs", "batch", "lr", "seed")
"""Settings that are always shown; all are in a fold."""


def settings(record: Record, verdict: Verdict | None) -> Section:
    gate = verdict.gate.first if verdict else next(iter(record.trials), None)
    spec = dict(gate.spec) if gate and gate.spec else dict(record.manifest.get("train") or {})
    first: dict[str, Child] = {k: spelled(spec[k]) for k in FIRST if k in spec}
    first["combos"] = ", ".join((gate.combos if gate else None) or record.config.get("combos", ()))
    rest = {k: spelled(v) for k, v in spec.items()}
    words = "Of the configuration in the verdict." if record.kind == "sweep" else ""
    return section("Settings", paragraph(words, note=True) if words else None, facts(first),
                   fold("All settings of train", facts(rest)), data(record))


def data(record: Record) -> Html:
    splits = record.config.get("splits") or {}
    units = list(dict.fromkeys(u for s in splits.values() for u in s))
    rows = [PageRow([name, *(of.get(u, "") for u in units)]) for name, of in splits.items()]
    listed = table([Column("Split"), *map(Column, units)], rows, "Images and what is evaluated")
    about: dict[str, Child] = {
        "data set": str((record.manifest.get("dataset") or {}).get("name", "")),
        "protocol": record.protocol,
        "checkpoints": f"chosen on val by {metric_name(record.select)}; without a val split, the"
                       " last ones",
        "intervals": "95\u00a0% percentile bootstrap over test items, 1000 draws, fixed seed"}
    return join([heading("Data and protocol"), listed, facts(about)])


def reproduction(record: Record, verdict: Verdict | None) -> Section:
    config = record.config
    commands = config.get("commands", [])
    placeholders = any(f"--{root} {root.upper()}" in line for line in commands
                       for root in ("data", "models"))
    parts: list[Child] = [
        code("\n".join(commands)),
        paragraph("Run where the manifest's path leads to it. DATA and MODELS stand for the folders"
                  " that hold them.", note=True) if placeholders else None]
    if config.get("trials_file"):
        parts.append(fold("The file of trials", code(str(config["trials_file"]))))
    if record.manifest:
        plain = json.dumps(record.manifest, indent=2, ensure_ascii=False)
        parts.append(fold(f"{config.get('manifest_file', 'The manifest')}, resolved"
                          " (JSON, which is YAML too)", code(plain)))
    about: dict[str, Child] = {
        "versions": ", ".join(f"{k} {v}" for k, v in config.get("versions", {}).items()),
        "device": str(config.get("device", "")), "took": clock(record.seconds)}
    return section("Reproduce", *parts, facts(about), fingerprints(record, verdict))


def fingerprints(record: Record, verdict: Verdict | None) -> Html:
    """Of the store, its combos, the diffusion model's weights and the trained ones."""
    config = record.config
    samples = config.get("samples") or {}
    store: dict[str, Child] = {"store": str(config.get("store", ""))}
    if samples:
        store["images in it"] = f"{samples.get('count')}, table's checksum" \
                                f" {samples.get('checksum')}"
    labels, encodings = config.get("labels") or {}, config.get("encodings") or {}
    combos = [PageRow([labels.get(group, group), encodings.get(group, ""), _hex(digest)])
              for group, digest in (config.get("fingerprints") or {}).items()]
    model = [PageRow([part, _hex(d)])
             for part, digests in (config.get("model_weights") or {}).items()
             for d in ([digests] if isinstance(digests, str) else digests)]
    trained = [PageRow([path.name, _hex(file_sha256(path))]) for path in _weights(record, verdict)]
    value = Column("sha256", words=True)
    parts = [heading("Fingerprints"), facts(store)]
    for columns, rows, caption in (
            ([Column("Combo"), Column("stored as", words=True), value], combos,
             "Combos: of all that decides their values"),
            ([Column("Part"), value], model, "Weights of the diffusion model"),
            ([Column("File"), value], trained, "Trained weights in the run's folder")):
        if rows:
            parts.append(table(columns, rows, caption))
    return join(parts)


def _hex(digest: str) -> Html:
    return Html("<code>{}</code>").format(digest)


def _weights(record: Record, verdict: Verdict | None) -> list[Path]:
    """Files of trained weights; of a sweep those of the configuration in the verdict."""
    if record.kind == "training":
        return sorted(record.folder.glob("*.safetensors"))
    results: list[Result] = list(verdict.gate.results) if verdict else []
    paths = [record.folder / WEIGHTS / f"{trial_file(r.key)}.safetensors" for r in results]
    return [p for p in paths if p.is_file()]


def about(record: Record) -> str:
    config: Mapping[str, Any] = record.config
    version = config.get("gate_cache", "")
    many = counted(len(record.trials), "trial") if record.kind == "sweep" else ""
    head = f"head {record.head}" if record.kind == "sweep" else ""
    return " · ".join(filter(None, [
        record.folder.resolve().name, head, many, str(config.get("began", "")),
        f"{clock(record.seconds)} on {config.get('device', '?')}", f"gate-cache {version}"]))

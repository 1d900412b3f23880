"""Reports on stores: what is in one, and what `verify`, `diff` and `prune` found."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from rich.markup import escape

from gate_cache.core.errors import counted
from gate_cache.report.terminal.grid import Grid, put, say, say_notes, shape
from gate_cache.store.places.disk import human

if TYPE_CHECKING:
    from gate_cache.extraction.diff import ComboDiff, Diff
    from gate_cache.extraction.prune import Pruned
    from gate_cache.extraction.recompute import Recomputed
    from gate_cache.extraction.sharing.copy import Copied
    from gate_cache.store.check.inspect import GroupReport, StoreReport
    from gate_cache.store.check.verify import Verified


def show_verified(report: Verified) -> None:
    for problem in report.problems:
        then = f" ({problem.then})" if problem.then else ""
        say(f"{problem.place}: {problem.what}{then}", "yellow" if problem.mended else "red")
    say_notes(report.notes)
    checked = (f"{counted(report.groups, 'group')}, {counted(report.blocks, 'finished block')},"
               f" {human(report.bytes)}")
    if not report.problems:
        verdict = "everything is as it was written"
    else:
        mended = sum(p.mended for p in report.problems)
        verdict = counted(len(report.problems), "problem")
        verdict += f", {mended} repaired" if mended else ""
    say(f"{report.store}: {checked}: {verdict}", "bold")
    if any(p.mended for p in report.problems):
        say("run 'gate-cache extract' on its manifests to fill what is undone now")


def show_copied(report: Copied) -> None:
    there = f", {report.kept} were there" if report.kept else ""
    there += f"; of commit {report.version}" if report.version else ""
    say(f"{report.store}: {counted(report.images, 'image')},"
        f" {counted(len(report.groups), 'group')}: copied"
        f" {counted(report.blocks, 'block')}, {human(report.bytes)}{there}", "bold")
    say_notes([f"{group}: left out {counted(rows, 'row')} of blocks that are not finished"
               for group, rows in report.missing.items()])


def show_recomputed(report: Recomputed) -> None:
    rows = ", ".join(map(str, report.rows))
    say(f"{report.store}: rows {rows} computed again on {report.device}", "bold")
    lines = Grid("combo", "rows", "equal to the bit", "largest difference", "of the largest value")
    for combo in report.combos:
        lines.add_row(escape(combo.name), str(combo.rows), str(combo.equal),
                      f"{combo.largest:.3g}", f"{combo.relative:.2e}",
                      style=None if combo.rows == combo.equal else "yellow")
    put(lines)
    for line in report.changed:
        say(f"changed since: {line}")
    allowed = f"{report.tolerance:g} of the largest value"
    verdict = "it agrees" if report.agrees else "it does not agree"
    say(f"allowed: {allowed if report.tolerance else 'no difference'}: {verdict}",
        None if report.agrees else "yellow")
    say_notes(report.notes)


def show_diff(diff: Diff) -> None:
    for combo in diff.combos:
        if lines := _combo_lines(combo):
            name = combo.name if combo.name == combo.other else f"{combo.name} ({combo.other})"
            say(f"{name}: {'; '.join(lines)}", None if combo.same else "yellow")
    for place, names in ((diff.a, diff.only_a), (diff.b, diff.only_b)):
        if names:
            say(f"only in {place}: {', '.join(names)}", "yellow")
    say_notes(diff.notes)
    say(f"{diff.a} and {diff.b}: {'nothing differs' if diff.same else 'they differ'}", "bold")


def _combo_lines(combo: ComboDiff) -> list[str]:
    lines = list(combo.changed)
    if combo.unequal:
        exact = combo.largest is not None
        lines.append(f"{combo.unequal} of {combo.rows} rows differ" if exact else
                     f"{combo.unequal} of {combo.rows} rows are in blocks that differ")
    if combo.largest:
        lines.append(f"by {combo.largest:.3g} at most")
    return lines + (["is called otherwise"] if combo.name != combo.other else [])


def show_pruned(stores: list[Pruned]) -> None:
    for store in stores:
        say(f"{store.store}: {counted(len(store.kept), 'group is', 'groups are')} kept", "bold")
        lines = Grid("group", "why", "size", left=2)
        for group in store.groups:
            lines.add_row(escape(group.name), group.why, human(group.bytes))
        if store.groups:
            put(lines)
        say_notes(store.notes)
    size = human(sum(store.bytes for store in stores))
    if not any(store.groups for store in stores):
        say("nothing to remove")
    elif stores[0].removed:
        say(f"{size} removed")
    else:
        say(f"nothing was removed; pass --yes to remove {size}")


def show_store(report: StoreReport) -> None:
    say(f"{report.path}: {report.dataset}, {counted(report.images, 'image')},"
        f" {human(report.bytes)}, format {report.format}, blocks of {report.block}, batch"
        f" {report.batch}")
    say("versions: " + ", ".join(f"{n} {v}" for n, v in report.versions.items()), style="dim")
    for group in report.groups:
        say("")
        say(f"{group.name}/  {human(group.bytes)}", style="bold")
        for line in _group_lines(group):
            say(f"  {line}")


def _group_lines(group: GroupReport) -> list[str]:
    lines = [f"{k}: {v}" for k, v in group.settings.items()]
    for technique, source in group.source.items():
        names = source.values() if isinstance(source, dict) else \
            source if isinstance(source, list) else [source]
        if source:
            lines.append(f"{technique} from: {', '.join(map(str, names))}")
    lines.append(f"model: {group.model}, {group.compute}")
    lines += [f"{name}  {shape(dims)}  {dtype}" for name, (dims, dtype) in group.maps.items()]
    if group.error:
        lines.append(f"rounded by {group.error}")
    gap = f", missing rows {_ranges(group.missing)}" if group.missing else ""
    lines.append(f"done: {group.done}/{group.done + len(group.missing)}{gap}")
    return [*lines, *map(_made_line, group.made)]


def _made_line(made: dict[str, Any]) -> str:
    """``3 blocks: cpu, torch 2.13.0, batch 8``."""
    blocks = counted(made["blocks"], "block")
    if "device" not in made:
        return f"{blocks}: it is not noted what computed them"
    tf32 = ", TF32" if made["tf32"] else ""
    return (f"{blocks}: {made['device']}, torch {made['versions'].get('torch', '?')},"
            f" batch {made['batch']}{tf32}")


def _ranges(rows: list[int]) -> str:
    """``0–31, 64–95 …``."""
    spans: list[list[int]] = []
    for row in rows:
        if spans and spans[-1][1] == row - 1:
            spans[-1][1] = row
        else:
            spans.append([row, row])
    text = ", ".join(f"{a}" if a == b else f"{a}–{b}" for a, b in spans[:6])
    return text + (" …" if len(spans) > 6 else "")

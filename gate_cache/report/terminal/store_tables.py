"""Reports on stores: what `verify`, `diff` and `prune` found."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rich.markup import escape

from gate_cache.report.terminal.tables import console, grid, say
from gate_cache.store.places.disk import human

if TYPE_CHECKING:
    from gate_cache.extraction.diff import ComboDiff, Diff
    from gate_cache.extraction.prune import Pruned
    from gate_cache.extraction.recompute import Recomputed
    from gate_cache.store.check.verify import Verified


def show_verified(found: Verified) -> None:
    """Problems, notes and the verdict, a line each."""
    out = console()
    for problem in found.problems:
        then = f" ({problem.then})" if problem.then else ""
        say(out, f"{problem.place}: {problem.what}{then}", "yellow" if problem.mended else "red")
    for note in found.notes:
        say(out, f"note: {note}")
    looked = f"{found.groups} groups, {found.blocks} finished blocks, {human(found.bytes)}"
    if not found.problems:
        verdict = "everything is as it was written"
    else:
        mended = sum(p.mended for p in found.problems)
        verdict = f"{len(found.problems)} problems" + (f", {mended} mended" if mended else "")
    say(out, f"{found.store}: {looked}: {verdict}", "bold")
    if any(p.mended for p in found.problems):
        say(out, "run 'gate-cache extract' on its manifests to fill what is undone now")


def show_recomputed(found: Recomputed) -> None:
    """How far rows that were computed again are from those in the store."""
    out = console()
    rows = ", ".join(map(str, found.rows))
    say(out, f"{found.store}: rows {rows} computed again on {found.device}", "bold")
    lines = grid("combo", "rows", "equal to the bit", "largest difference", "of the largest value")
    for combo in found.combos:
        lines.add_row(escape(combo.name), str(combo.rows), str(combo.equal),
                      f"{combo.largest:.3g}", f"{combo.relative:.2e}",
                      style=None if combo.rows == combo.equal else "yellow")
    out.print(lines)
    for line in found.changed:
        say(out, f"changed since: {line}")
    for note in found.notes:
        say(out, f"note: {note}")


def show_diff(found: Diff) -> None:
    """What differs, combo by combo."""
    out = console()
    for combo in found.combos:
        if lines := _combo_lines(combo):
            name = combo.name if combo.name == combo.other else f"{combo.name} ({combo.other})"
            say(out, f"{name}: {'; '.join(lines)}", None if combo.same else "yellow")
    for place, names in ((found.a, found.only_a), (found.b, found.only_b)):
        if names:
            say(out, f"only in {place}: {', '.join(names)}", "yellow")
    for note in found.notes:
        say(out, f"note: {note}")
    say(out, f"{found.a} and {found.b}: "
             + ("nothing differs" if found.same else "they differ"), "bold")


def _combo_lines(combo: ComboDiff) -> list[str]:
    lines = list(combo.changed)
    if combo.unequal:
        exact = combo.largest is not None
        lines.append(f"{combo.unequal} of {combo.rows} rows differ" if exact else
                     f"{combo.unequal} of {combo.rows} rows are in blocks that differ")
    if combo.largest:
        lines.append(f"by {combo.largest:.3g} at most")
    return lines + (["is called otherwise"] if combo.name != combo.other else [])


def show_pruned(found: list[Pruned]) -> None:
    """What is not needed, or was removed."""
    out = console()
    for store in found:
        say(out, f"{store.store}: {len(store.kept)} groups are kept", "bold")
        lines = grid("group", "why", "size", left=2)
        for group in store.groups:
            lines.add_row(escape(group.name), group.why, human(group.bytes))
        if store.groups:
            out.print(lines)
        for note in store.notes:
            say(out, f"note: {note}")
    size = human(sum(store.bytes for store in found))
    if not any(store.groups for store in found):
        say(out, "nothing to remove")
    elif found[0].removed:
        say(out, f"{size} removed")
    else:
        say(out, f"nothing was removed; say --yes to remove {size}")

"""``report.html`` of a run's or a sweep's folder."""

from __future__ import annotations

from pathlib import Path

from gate_cache.core.errors import GateCacheError
from gate_cache.core.progress import Progress
from gate_cache.core.replacing import replacing
from gate_cache.core.roots import Roots
from gate_cache.report.html.compare import Verdict, verdict
from gate_cache.report.html.examples import examples
from gate_cache.report.html.page import Section, document
from gate_cache.report.html.provenance import about, reproduction, settings
from gate_cache.report.html.record import Record, read_record
from gate_cache.report.html.results import findings, lead, results
from gate_cache.report.html.training import training, weights
from gate_cache.report.html.trials import trials
from gate_cache.store.places.disk import disk_errors
from gate_cache.training.run_files import REPORT


def write_report(folder: Path, roots: Roots) -> Path:
    """Write a finished run's or sweep's ``report.html``; the examples' images are below `roots`.

    A `UserError` where the folder is of no finished run or sweep, or cannot be written.
    """
    record, path = read_record(folder), folder / REPORT
    outcome = verdict(record)
    page = document(record.title, sections(record, outcome, roots), lead=lead(record, outcome),
                    about=about(record))
    with disk_errors(folder, "RUN", "and write it again"), replacing(path) as draft:
        draft.write_text(page, encoding="utf-8")
    return path


def findings_of(folder: Path) -> list[str]:
    """What a finished run or sweep shows, in a few lines, as its report begins."""
    outcome = verdict(read_record(folder))
    return findings(outcome) if outcome else []


def try_report(folder: Path, roots: Roots, show: Progress) -> Path | None:
    """As `write_report` after a training, which is finished whatever becomes of its report."""
    try:
        return write_report(folder, roots)
    except Exception as error:  # a report must not fail a training that took hours
        why = str(error) if isinstance(error, GateCacheError) else \
            f"{type(error).__name__}: {error}"
        show.say(f"warning: no report was written ({' '.join(why.split())}); 'gate-cache report"
                 f" {folder}' tries again")
        return None


def sections(record: Record, verdict: Verdict | None, roots: Roots) -> list[Section]:
    """All parts of a record's report, for a page of several too."""
    parts = [*trials(record, verdict), results(record, verdict), examples(record, verdict, roots),
             training(record, verdict), weights(record, verdict), settings(record, verdict),
             reproduction(record, verdict)]
    return [s for s in parts if s]

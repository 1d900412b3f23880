"""README's tables are extracts of the docs; intervals of the findings follow from their rows."""

from __future__ import annotations

import math
import re

import pytest
from doc_blocks import DOCS, ROOT
from scipy.stats import t as student

SEEDS = 3
FINDING = re.compile(r"(?P<a>[\d.]+ ± [\d.]+) \| (?P<b>[\d.]+ ± [\d.]+) \| "
                     r"(?P<difference>[+−][\d.]+) \| (?P<low>[+−]?[\d.]+) to (?P<high>[+−]?[\d.]+)")


def page(name: str) -> str:
    return (ROOT / name).read_text(encoding="utf-8")


def section(text: str, title: str) -> list[str]:
    """Rows of the first table below a heading."""
    below = text.split(f"## {title}\n", 1)[1].split("\n## ", 1)[0]
    return [line for line in below.splitlines() if line.startswith("|")]


def number(text: str) -> float:
    return float(text.replace("−", "-"))


def welch(a: str, b: str) -> tuple[float, float, float]:
    """Difference of two means over seeds and its 95 % interval (Welch 1947), from mean ± std."""
    (m, s), (n, r) = ([float(v) for v in x.split(" ± ")] for x in (a, b))
    u, v = s * s / SEEDS, r * r / SEEDS
    freedom = (u + v) ** 2 / ((u * u + v * v) / (SEEDS - 1))
    half = float(student.ppf(0.975, freedom)) * math.sqrt(u + v)
    return n - m, n - m - half, n - m + half


@pytest.mark.parametrize(("title", "source"), [("Results", "docs/results.md"),
                                               ("Costs", "docs/benchmarks.md")])
def test_a_table_of_the_readme_is_an_extract(title: str, source: str) -> None:
    rows, told = section(page("README.md"), title), page(source).splitlines()
    assert len(rows) >= 5 and [row for row in rows if row not in told] == []


def test_intervals_follow_from_the_rows_that_findings_name() -> None:
    text = (DOCS / "results.md").read_text(encoding="utf-8")
    head, tables = text.split("\n## ", 2)[1], text.split("\n## ", 2)[2]
    findings = list(FINDING.finditer(head))
    assert len(findings) == 3
    for found in findings:
        for row in (found["a"], found["b"]):
            assert re.search(rf"^\|.*\(n = {SEEDS}\) \|.*{re.escape(row)} \|", tables, re.M), row
        wanted = welch(found["a"], found["b"])
        stated = [number(found[name]) for name in ("difference", "low", "high")]
        assert stated == pytest.approx(wanted, abs=0.051), [round(w, 1) for w in wanted]

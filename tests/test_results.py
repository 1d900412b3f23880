"""README's tables are extracts of the docs; findings are extracts of the tables below them."""

from __future__ import annotations

import re

import pytest
from doc_blocks import DOCS, ROOT

FINDING = re.compile(r"\| (?P<a>[\d.]+) \| (?P<b>[\d.]+) \| (?P<difference>[+-][\d.]+) \|"
                     r" (?P<low>[+-]?[\d.]+) to (?P<high>[+-]?[\d.]+) \|")


def page(name: str) -> str:
    return (ROOT / name).read_text(encoding="utf-8")


def section(text: str, title: str) -> list[str]:
    """Rows of the first table below a heading."""
    below = text.split(f"## {title}\n", 1)[1].split("\n## ", 1)[0]
    return [line for line in below.splitlines() if line.startswith("|")]


@pytest.mark.parametrize(("title", "source"), [("Results", "docs/results.md"),
                                               ("Costs", "docs/benchmarks.md")])
def test_a_table_of_the_readme_is_an_extract(title: str, source: str) -> None:
    rows, told = section(page("README.md"), title), page(source).splitlines()
    assert len(rows) >= 5 and [row for row in rows if row not in told] == []


def test_findings_stand_in_the_tables_below() -> None:
    text = (DOCS / "results.md").read_text(encoding="utf-8").replace("−", "-")
    head, tables = text.split("\n## ", 2)[1], text.split("\n## ", 2)[2]
    findings = list(FINDING.finditer(head))
    assert len(findings) == 7
    for found in findings:
        low, high = (found[name].removeprefix("+") for name in ("low", "high"))
        assert f"{found['difference']} ({low} to {high})" in tables
        for mean in (found["a"], found["b"]):
            assert re.search(rf"\| {re.escape(mean)}( ± [\d.]+)? \|", tables), mean
        gain = float(found["b"]) - float(found["a"])  # of rounded means
        assert float(found["difference"]) == pytest.approx(gain, abs=0.11)

// Tables of class "sortable": a click on a column's head sorts by it. Without scripts they stay
// in the order in which they were written.
"use strict";
for (const table of document.querySelectorAll("table.sortable")) {
  const body = table.tBodies[0];
  const heads = [...table.tHead.rows[0].cells];
  const value = (row, column) => {
    const cell = row.cells[column];
    const given = cell.dataset.sort ?? cell.textContent.trim();
    return given === "" || Number.isNaN(Number(given)) ? given : Number(given);
  };
  const compare = (a, b) => {
    if (a === "" || b === "") return a === b ? 0 : NaN; // empty ones stay last
    const numbers = typeof a === "number" && typeof b === "number";
    return numbers ? a - b : String(a).localeCompare(String(b), "en", { numeric: true });
  };
  const sort = (column) => {
    const head = heads[column];
    const first = head.classList.contains("words") ? "ascending" : "descending";
    const other = first === "ascending" ? "descending" : "ascending";
    const way = head.getAttribute("aria-sort") === first ? other : first;
    heads.forEach((h) => h.removeAttribute("aria-sort"));
    head.setAttribute("aria-sort", way);
    const rows = [...body.rows].map((row, i) => [value(row, column), i, row]);
    rows.sort(([a, i], [b, j]) => {
      const found = compare(a, b);
      if (Number.isNaN(found)) return a === "" ? 1 : -1;
      return (way === "ascending" ? found : -found) || i - j;
    });
    body.append(...rows.map(([, , row]) => row));
  };
  heads.forEach((head, column) => {
    const button = document.createElement("button");
    button.type = "button";
    button.append(...head.childNodes);
    button.addEventListener("click", () => sort(column));
    head.append(button);
  });
}

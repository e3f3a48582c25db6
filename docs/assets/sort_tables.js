// Tables inside of <div class="sortable-tables">: a click on a column's head sorts by it. Numbers sort as numbers,
// and rows without a value come last. Keys do the same: Tab reaches a head, Enter sorts.
function sortBy(table, column) {
  const head = table.tHead.rows[0].cells[column];
  const descending = head.getAttribute("aria-sort") === "ascending";
  for (const cell of table.tHead.rows[0].cells) cell.removeAttribute("aria-sort");
  head.setAttribute("aria-sort", descending ? "descending" : "ascending");
  const body = table.tBodies[0];
  const key = (row) => row.cells[column].textContent.trim();
  const rows = [...body.rows].sort((one, other) => {
    const [a, b] = [key(one), key(other)];
    if (a === "" || b === "") return (a === "") - (b === "");
    const order = isNaN(a) || isNaN(b) ? a.localeCompare(b, "en", { numeric: true }) : a - b;
    return descending ? -order : order;
  });
  body.append(...rows);
}

for (const table of document.querySelectorAll(".sortable-tables table")) {
  [...table.tHead.rows[0].cells].forEach((cell, column) => {
    cell.classList.add("sortable");
    cell.tabIndex = 0;
    cell.addEventListener("click", () => sortBy(table, column));
    cell.addEventListener("keydown", (event) => event.key === "Enter" && sortBy(table, column));
  });
}

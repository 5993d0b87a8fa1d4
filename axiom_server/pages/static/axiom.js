// Sort a table when a column's heading is clicked. Pages work without this script.
"use strict";

function valueOf(cell) {
  const text = cell.dataset.value ?? cell.textContent.trim().replace(/,/g, "");
  const number = Number(text);
  return text !== "" && !Number.isNaN(number) ? number : text;
}

function compare(a, b) {
  if (typeof a === "number" && typeof b === "number") return a - b;
  return String(a).localeCompare(String(b));
}

function sortBy(table, column, heading) {
  const body = table.tBodies[0];
  const descending = heading.getAttribute("aria-sort") !== "descending";
  for (const other of table.tHead.rows[0].cells) other.removeAttribute("aria-sort");
  heading.setAttribute("aria-sort", descending ? "descending" : "ascending");
  const rows = [...body.rows].sort(
    (a, b) => compare(valueOf(a.cells[column]), valueOf(b.cells[column])) * (descending ? -1 : 1),
  );
  body.append(...rows);
}

for (const table of document.querySelectorAll("table.sortable")) {
  [...table.tHead.rows[0].cells].forEach((heading, column) => {
    const button = document.createElement("button");
    button.type = "button";
    button.append(...heading.childNodes);
    heading.append(button);
    button.addEventListener("click", () => sortBy(table, column, heading));
  });
}

// Sorts a table by the column whose title is clicked: numbers in ascending, then descending order; text by name.

const collator = new Intl.Collator(undefined, { numeric: true });

function compare(a, b, numeric) {
  if (!numeric) return collator.compare(a.textContent, b.textContent);
  // cells without a value are last in both directions
  return Number(a.dataset.value) - Number(b.dataset.value);
}

function sort(header) {
  const table = header.closest("table");
  const column = [...header.parentElement.children].indexOf(header);
  const numeric = !header.classList.contains("text");
  const down = header.getAttribute("aria-sort") === "ascending";
  for (const other of header.parentElement.children) other.removeAttribute("aria-sort");
  header.setAttribute("aria-sort", down ? "descending" : "ascending");
  const body = table.tBodies[0];
  const rows = [...body.rows];
  const empty = (row) => numeric && row.cells[column].dataset.value === "";
  rows.sort((a, b) => {
    if (empty(a) !== empty(b)) return empty(a) ? 1 : -1;
    const order = compare(a.cells[column], b.cells[column], numeric);
    return down ? -order : order;
  });
  body.append(...rows);
}

for (const button of document.querySelectorAll("thead button")) {
  button.addEventListener("click", () => sort(button.closest("th")));
}

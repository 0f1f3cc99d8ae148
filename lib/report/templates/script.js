// Sorts and filters the table of all rows; without this script it is a plain table.
const table = document.querySelector("#rows table");
const body = table.tBodies[0], rows = [...body.rows], form = document.querySelector(".filters");
const columns = [...table.tHead.rows[0].cells];
const key = (row, i) => row.cells[i].dataset.sort ?? row.cells[i].textContent.trim();

function sort(i) {
  const down = columns[i].ariaSort === "ascending";
  const numbers = columns[i].dataset.kind === "number";
  const compare = (a, b) => numbers ? a - b : String(a).localeCompare(b, "en", { numeric: true });
  const empty = (value) => value === "";
  body.append(...[...rows].sort((a, b) => {
    const [x, y] = [key(a, i), key(b, i)];
    if (empty(x) || empty(y)) return empty(x) - empty(y);  // rows without a value come last, either way
    return down ? compare(y, x) : compare(x, y);
  }));
  columns.forEach((column) => column.removeAttribute("aria-sort"));
  columns[i].ariaSort = down ? "descending" : "ascending";
}

function filter() {
  const wanted = new FormData(form);
  const words = wanted.get("words").toLowerCase().split(/\s+/);
  for (const row of rows) {
    const named = ["method", "dataset", "ipc", "judged"].every((name) => [row.dataset[name], ""].includes(wanted.get(name)));
    row.hidden = !(named && words.every((word) => row.textContent.toLowerCase().includes(word)));
  }
  form.querySelector("output").textContent = `${rows.filter((row) => !row.hidden).length} of ${rows.length} rows`;
}

columns.forEach((column, i) => {
  const button = document.createElement("button");
  button.type = "button";
  button.append(...column.childNodes);
  button.onclick = () => sort(i);
  column.append(button);
});
for (const select of form.querySelectorAll("select")) {
  const values = new Set(rows.map((row) => row.dataset[select.name]));
  [...values].sort((a, b) => a.localeCompare(b, "en", { numeric: true })).forEach((value) => select.add(new Option(value)));
}
form.hidden = false;
form.oninput = filter;
form.onsubmit = (event) => event.preventDefault();
filter();

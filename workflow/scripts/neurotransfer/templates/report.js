"use strict";
// Theme, overlay, sorting and filtering.  The page is complete without this script.
const page = document.documentElement;
document.querySelectorAll(".theme, .overlay").forEach(part => part.hidden = false);

const theme = document.getElementById("theme");
const apply = name => { if (name) page.dataset.theme = name; else delete page.dataset.theme; };
try { theme.value = localStorage.getItem("neurotransfer-theme") || ""; } catch { /* the browser may forbid storage */ }
apply(theme.value);
theme.addEventListener("change", () => {
  apply(theme.value);
  try { localStorage.setItem("neurotransfer-theme", theme.value); } catch { /* as above */ }
});

const overlay = document.getElementById("overlay");
if (overlay) {
  const show = () => page.classList.toggle("overlaid", overlay.checked);
  overlay.addEventListener("change", show);
  show();
}

// A cell's first number, or else its text; "1,037" and "−0.012" are numbers, "–" is missing and sorts last
const value = cell => {
  const text = (cell.firstChild && cell.firstChild.textContent.trim() || cell.textContent.trim()).replaceAll("−", "-");
  const number = text.match(/^[<+]?\s*(-?[\d,]*\.?\d+)/);
  return text === "–" || text === "" ? null : number ? Number(number[1].replaceAll(",", "")) : text.toLowerCase();
};
const compare = (a, b) => typeof a === typeof b ? (a < b ? -1 : a > b ? 1 : 0) : typeof a === "number" ? -1 : 1;

// The rows that can be sorted: rows with cells over several columns are headings or sums and keep their position
const movable = body => [...body.rows].filter(row => ![...row.cells].some(cell => cell.colSpan > 1));
const bodies = table => [...table.tBodies];

const sort = (table, column, falling) => bodies(table).forEach(body => {
  const rows = movable(body);
  const sorted = rows.map(row => [value(row.cells[column]), row]).sort(([a], [b]) =>
    a === null || b === null ? (a === null) - (b === null) : falling ? compare(b, a) : compare(a, b));
  const marks = rows.map(row => { const mark = document.createComment(""); row.before(mark); return mark; });
  marks.forEach((mark, index) => mark.replaceWith(sorted[index][1]));
});

document.querySelectorAll(".scroll > table:not(.inorder)").forEach(table => {
  if (!table.tHead || table.tHead.rows.length !== 1 || !bodies(table).some(body => movable(body).length > 1)) return;
  const heads = [...table.tHead.rows[0].cells];
  heads.forEach((head, column) => {
    const button = document.createElement("button");
    button.type = "button";
    button.className = "sort";
    button.append(...head.childNodes);
    head.append(button);
    button.addEventListener("click", () => {
      const falling = head.getAttribute("aria-sort") === "ascending";
      heads.forEach(other => other.removeAttribute("aria-sort"));
      head.setAttribute("aria-sort", falling ? "descending" : "ascending");
      sort(table, column, falling);
    });
  });

  const count = bodies(table).reduce((sum, body) => sum + movable(body).length, 0);
  if (count < 8 || table.closest(".pair")) return;
  const region = table.parentElement, tool = document.createElement("p"), input = document.createElement("input");
  const status = document.createElement("span");
  tool.className = "filter";
  input.type = "search";
  input.placeholder = "Filter rows";
  input.setAttribute("aria-label", `Filter rows of: ${region.getAttribute("aria-label")}`);
  status.setAttribute("role", "status");
  tool.append(input, " ", status);
  region.prepend(tool);
  input.addEventListener("input", () => {
    const wanted = input.value.trim().toLowerCase();
    let shown = 0;
    bodies(table).forEach(body => {
      const rows = movable(body), group = [...body.rows].filter(row => !rows.includes(row));
      const whole = group.some(row => row.textContent.toLowerCase().includes(wanted));
      rows.forEach(row => { row.hidden = !whole && !row.textContent.toLowerCase().includes(wanted); });
      const here = rows.filter(row => !row.hidden).length;
      group.forEach(row => { row.hidden = wanted !== "" && here === 0; });
      shown += here;
    });
    status.textContent = wanted ? `${shown} of ${count} rows` : "";
  });
});

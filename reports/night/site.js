"use strict";
// Dark or light: the reader's choice wins over the system's, and is remembered.
const root = document.documentElement;
const remember = (value) => {
  try {
    if (value) localStorage.setItem("theme", value);
    return localStorage.getItem("theme");
  } catch {
    return value; // storage is closed to pages from disk in some browsers
  }
};
const chosen = remember();
if (chosen) root.dataset.theme = chosen;

document.addEventListener("DOMContentLoaded", () => {
  document.querySelector(".theme").addEventListener("click", () => {
    const system = matchMedia("(prefers-color-scheme: dark)").matches ? "dark" : "light";
    root.dataset.theme = (root.dataset.theme || system) === "dark" ? "light" : "dark";
    remember(root.dataset.theme);
  });

  const menu = document.querySelector(".menu");
  menu.addEventListener("click", () => {
    const open = document.body.classList.toggle("open");
    menu.setAttribute("aria-expanded", open);
  });

  document.querySelectorAll(".table table").forEach(sortable);

  const zoom = document.querySelector(".zoom");
  document.querySelectorAll("figure").forEach((figure) => {
    figure.tabIndex = 0;
    figure.setAttribute("role", "button");
    figure.setAttribute("aria-label", "Enlarge figure");
    const open = () => {
      zoom.replaceChildren(figure.firstElementChild.cloneNode(true));
      zoom.showModal();
    };
    // a picture in it may be a link of its own
    figure.addEventListener("click", (event) => event.target.closest("a") || open());
    figure.addEventListener("keydown", (event) => event.key === "Enter" && event.target === figure && open());
  });
  zoom.addEventListener("click", () => zoom.close());
});

// A click on a column's heading sorts up, the next down, the third restores the order.
function sortable(table) {
  const body = table.tBodies[0];
  if (!table.tHead || !body || body.rows.length < 3) return;
  const original = body.innerHTML;
  for (const row of table.tHead.rows) {
    let column = 0;
    for (const heading of row.cells) {
      const place = column;
      column += heading.colSpan;
      if (heading.colSpan > 1 || heading.rowSpan > 1 || !heading.textContent.trim()) continue;
      const button = document.createElement("button");
      button.type = "button";
      button.append(...heading.childNodes);
      heading.append(button);
      button.addEventListener("click", () => {
        const next = { none: "ascending", ascending: "descending", descending: "none" };
        const order = next[heading.ariaSort || "none"];
        table.querySelectorAll("[aria-sort]").forEach((h) => h.removeAttribute("aria-sort"));
        body.innerHTML = original;
        if (order === "none") return;
        heading.setAttribute("aria-sort", order);
        spread(body);
        const sign = order === "ascending" ? 1 : -1;
        const rows = [...body.rows].map((r) => [value(r.cells[place]), r]);
        rows.sort(([a], [b]) => compare(a, b, sign));
        body.append(...rows.map(([, r]) => r));
      });
    }
  }
}

// Gives every row its own copy of a label that spans several, so that rows can move.
function spread(body) {
  [...body.rows].forEach((row, i) => {
    [...row.cells].forEach((cell) => {
      const place = cell.cellIndex;
      for (let k = 1; k < cell.rowSpan; k++) {
        const copy = cell.cloneNode(true);
        copy.removeAttribute("rowspan");
        const below = body.rows[i + k];
        below.insertBefore(copy, below.cells[place] || null);
      }
      cell.removeAttribute("rowspan");
    });
  });
}

function value(cell) {
  const text = (cell.dataset.value || cell.textContent).trim().replace("−", "-");
  const number = /^[×+]?(-?[\d.,]+(?:e[+-]?\d+)?)/i.exec(text);
  return number ? parseFloat(number[1].replaceAll(",", "")) : text;
}

// Numbers before words in either direction: "not run" stays at the end.
function compare(a, b, sign) {
  if (typeof a !== typeof b) return typeof a === "number" ? -1 : 1;
  return sign * (typeof a === "number" ? a - b : a.localeCompare(b));
}

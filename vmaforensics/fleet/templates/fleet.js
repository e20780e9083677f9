"use strict";
(() => {
  const byId = (id) => document.getElementById(id);
  const table = byId("machines-table");
  const body = table.tBodies[0];
  const rows = [...body.rows];
  const texts = new Map(rows.map((row) => [row, row.textContent.toLowerCase()]));
  const tallies = [...document.querySelectorAll("a[data-only]")];
  let only = "";

  // Only hides, shows and reorders what is there.
  const apply = () => {
    const words = byId("filter-text").value.toLowerCase().split(/\s+/).filter(Boolean);
    let shown = 0;
    for (const row of rows) {
      const right = !only || row.cells[1].textContent.startsWith(only);
      row.hidden = !(right && words.every((word) => texts.get(row).includes(word)));
      if (!row.hidden) shown += 1;
    }
    for (const link of tallies) link.setAttribute("aria-pressed", String(link.dataset.only === only));
    byId("filter-shown").textContent = words.length || only ? `${shown} of ${rows.length} machines shown` : "";
  };

  const sort = (head, at) => {
    const down = head.getAttribute("aria-sort") === "ascending";
    for (const other of table.tHead.rows[0].cells) other.removeAttribute("aria-sort");
    head.setAttribute("aria-sort", down ? "descending" : "ascending");
    const key = (row) => row.cells[at].dataset.key ?? row.cells[at].textContent;
    const sorted = [...rows].sort((a, b) => key(a).localeCompare(key(b), undefined, { numeric: true }));
    body.append(...(down ? sorted.reverse() : sorted));
  };

  [...table.tHead.rows[0].cells].forEach((head, at) => {
    const button = document.createElement("button");
    button.type = "button";
    button.textContent = head.textContent;
    button.addEventListener("click", () => sort(head, at));
    head.replaceChildren(button);
  });
  for (const link of tallies) {
    link.addEventListener("click", () => {
      only = only === link.dataset.only ? "" : link.dataset.only;
      apply();
    });
  }
  byId("filter").addEventListener("input", apply);
  byId("filter").addEventListener("submit", (event) => event.preventDefault());
  byId("filter").hidden = false;
})();

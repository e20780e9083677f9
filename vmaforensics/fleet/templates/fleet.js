"use strict";
(() => {
  const byId = (id) => document.getElementById(id);
  const rows = [...document.querySelectorAll("table.machines tbody tr")];
  const texts = rows.map((row) => row.textContent.toLowerCase());

  // Only hides and shows what is there.
  const apply = () => {
    const words = byId("filter-text").value.toLowerCase().split(/\s+/).filter(Boolean);
    let shown = 0;
    rows.forEach((row, at) => {
      row.hidden = !words.every((word) => texts[at].includes(word));
      if (!row.hidden) shown += 1;
    });
    byId("filter-shown").textContent = words.length ? `${shown} of ${rows.length} machines shown` : "";
  };

  byId("filter").addEventListener("input", apply);
  byId("filter").addEventListener("submit", (event) => event.preventDefault());
  byId("filter").hidden = false;
})();

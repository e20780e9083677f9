"use strict";
(() => {
  const byId = (id) => document.getElementById(id);
  const form = byId("filter");
  const search = byId("filter-text");
  const rule = byId("filter-rule") || { value: "" };
  const pid = byId("filter-pid") || { value: "" };
  const boxes = [...form.querySelectorAll("input[name=severity]")];
  const cards = [...document.querySelectorAll("article.card, tr.card-row")];
  const others = [...document.querySelectorAll("section.map, tr[data-pid]:not(.card-row)")];
  const texts = new Map();

  const textOf = (item) => {
    if (!texts.has(item)) texts.set(item, item.textContent.toLowerCase());
    return texts.get(item);
  };

  // Only hides and shows what is there.
  const apply = () => {
    const words = search.value.toLowerCase().split(/\s+/).filter(Boolean);
    const severities = new Set(boxes.filter((box) => box.checked).map((box) => box.value));
    const matches = (item) =>
      (!pid.value || item.dataset.pid === pid.value) && words.every((word) => textOf(item).includes(word));
    const pids = new Set();
    let shown = 0;
    for (const card of cards) {
      const fits = severities.has(card.dataset.severity) && (!rule.value || card.dataset.rule === rule.value);
      card.hidden = !(fits && matches(card));
      if (fits) pids.add(card.dataset.pid);
      if (!card.hidden) shown += 1;
    }
    const narrowed = rule.value || severities.size < boxes.length;
    for (const item of others) item.hidden = !(matches(item) && (!narrowed || pids.has(item.dataset.pid)));
    byId("no-match").hidden = shown > 0 || cards.length === 0;
    const active = narrowed || pid.value || words.length;
    byId("filter-shown").textContent = active ? `${shown} of ${cards.length} findings shown` : "";
  };

  // A link to a finding opens it, and lifts a filter that hides it.
  const arrive = () => {
    const target = byId(location.hash.slice(1));
    if (!target) return;
    if (target.closest("[hidden]")) {
      form.reset();
      apply();
    }
    const details = target.querySelector("details");
    if (details && target.matches("article.card")) details.open = true;
    target.scrollIntoView();
  };

  form.addEventListener("input", apply);
  form.addEventListener("submit", (event) => event.preventDefault());
  form.addEventListener("reset", () => setTimeout(apply));
  window.addEventListener("hashchange", arrive);
  form.hidden = false;
  apply();
  if (location.hash) arrive();
})();

"use strict";
// Puts the parts of the page together.
const charts = {};
for (const picture of data.pictures) {
  charts[picture.name] = new Chart(document.getElementById(picture.name), picture);
}

// Shows a span of pages in the picture of addresses.
function show(start, end, name) {
  const chart = charts[name] || charts.map;
  if (!chart) return;
  chart.showSpan(start, end);
  chart.section.scrollIntoView({ block: "start" });
}

const ranges = document.querySelector("#ranges .rows");
if (ranges) new Rows(ranges, rangeRows(), RANGES, (row) => show(row.start, row.end, "map"));
const changes = document.querySelector("#changes .rows");
if (changes) {
  const rows = data.changes.map((change) => ({ ...change, fill: change.sort }));
  new Rows(changes, rows, CHANGES, (row) => show(row.start, row.end, "difference"));
}
const tables = document.getElementById("tables");
if (tables) new Tree(tables);

// The theme that was chosen is kept where the browser allows it.
const theme = document.getElementById("theme");
function setTheme(name) {
  theme.value = name;
  if (name) document.documentElement.dataset.theme = name; else delete document.documentElement.dataset.theme;
}
let kept = "";
try { kept = localStorage.getItem("ptview-theme") || ""; } catch { /* a page from a file may have no storage */ }
setTheme(kept);
theme.addEventListener("change", () => {
  setTheme(theme.value);
  try { localStorage.setItem("ptview-theme", theme.value); } catch { /* as above */ }
});
document.documentElement.dataset.ready = "true";

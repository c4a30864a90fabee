"use strict";
// Tables of rows with search and sorting. Shows as many rows as are asked for, not all.
const SHOWN = 200;

class Rows {
  // `columns` are [name, value of a row, words for the value, whether it is a number].
  constructor(place, rows, columns, click) {
    Object.assign(this, { rows, columns, click, most: SHOWN, by: 0, down: false, query: "" });
    place.innerHTML = `<div class="search"><input type="search" aria-label="Search" placeholder="Search: a word, or an address that is in a range">`
      + `<span class="count faint" aria-live="polite"></span></div><div class="scroll"><table><thead><tr></tr></thead><tbody class="mono"></tbody></table></div>`
      + `<p><button type="button" class="more">More rows</button></p>`;
    this.place = place;
    this.body = place.querySelector("tbody");
    place.querySelector("input").addEventListener("input", (event) => {
      [this.query, this.most] = [event.target.value.trim().toLowerCase(), SHOWN];
      this.draw();
    });
    this.more = place.querySelector(".more");
    this.more.addEventListener("click", () => { this.most += SHOWN * 5; this.draw(); });
    this.heads = columns.map(([name, , , number], at) => this.head(name, number, at));
    // What is searched: every word of a row.
    this.text = rows.map((row) => columns.map((column) => column[2](row)).join(" ").toLowerCase());
    this.draw();
  }

  head(name, number, at) {
    const cell = document.createElement("th");
    if (number) cell.className = "number";
    const button = document.createElement("button");
    button.type = "button";
    button.addEventListener("click", () => {
      this.down = this.by === at && !this.down;
      this.by = at;
      this.draw();
    });
    cell.append(button);
    cell.dataset.name = name;
    this.place.querySelector("thead tr").append(cell);
    return cell;
  }

  matches(at) {
    if (!this.query) return true;
    if (this.text[at].includes(this.query)) return true;
    const row = this.rows[at];
    const page = /^(0x)?[0-9a-f]{4,}$/.test(this.query) ? parseInt(this.query, 16) / 2 ** data.page_shift : NaN;
    return page >= row.start && page < row.end;
  }

  draw() {
    const found = this.rows.map((_, at) => at).filter((at) => this.matches(at));
    const value = this.columns[this.by][1];
    const order = (one, other) => {
      const [a, b] = [value(this.rows[one]), value(this.rows[other])];
      return (a < b ? -1 : a > b ? 1 : one - other) * (this.down ? -1 : 1);
    };
    found.sort(order);
    this.heads.forEach((cell, at) => {
      cell.firstChild.textContent = cell.dataset.name + (at === this.by ? (this.down ? " ▾" : " ▴") : "");
      cell.setAttribute("aria-sort", at === this.by ? (this.down ? "descending" : "ascending") : "none");
    });
    const total = found.reduce((sum, at) => sum + this.rows[at].end - this.rows[at].start, 0);
    this.place.querySelector(".count").textContent = `${found.length} of ${this.rows.length}, ${pages(total)}`;
    this.body.replaceChildren(...found.slice(0, this.most).map((at) => this.row(this.rows[at])));
    this.more.hidden = found.length <= this.most;
  }

  row(row) {
    const line = document.createElement("tr");
    line.tabIndex = 0;
    for (const [name, , word, number] of this.columns) {
      const cell = document.createElement("td");
      if (number) cell.className = "number";
      cell.textContent = word(row);
      if (name === "Kind" || name === "Change") {
        const swatch = document.createElement("span");
        swatch.className = `swatch f-${row.fill}`;
        cell.prepend(swatch);
      }
      line.append(cell);
    }
    line.addEventListener("click", () => this.click(row));
    line.addEventListener("keydown", (event) => { if (event.key === "Enter") this.click(row); });
    return line;
  }
}

function rangeRows() {
  return data.runs.map((run) => {
    const said = data.attributes[run[RUN_SAID]];
    const region = regionOf(run[RUN_START]);
    return { start: run[RUN_START], end: run[RUN_END], level: run[RUN_LEVEL], said, fill: fillOf(said), word: run[RUN_WORD],
      frame: run[RUN_FRAME], flags: said.flags.join(" "), name: region ? region[3] : "" };
  });
}

const column = (name, value, word = value, number = false) => [name, value, (row) => `${word(row)}`, number];
const RANGES = [
  column("Start", (row) => row.start, (row) => address(row.start)),
  column("End", (row) => row.end, (row) => address(row.end)),
  column("Pages", (row) => row.end - row.start, undefined, true),
  column("Level", (row) => row.level, (row) => `L${row.level}`),
  column("Kind", (row) => row.said.kind),
  column("EL0", (row) => row.said.el0 || "---"),
  column("Flags", (row) => row.flags),
  column("Memory", (row) => [row.said.memory, row.said.more].filter(Boolean).join(" ")),
  column("First frame", (row) => row.frame ?? -1, (row) => row.frame === null ? "" : hex(row.frame)),
  column("Descriptor", (row) => row.word),
  column("Mapping", (row) => row.name),
];
const CHANGES = [
  column("Start", (row) => row.start, (row) => address(row.start)),
  column("End", (row) => row.end, (row) => address(row.end)),
  column("Entries", (row) => row.entries, undefined, true),
  column("Level", (row) => row.level, (row) => `L${row.level}`),
  column("Change", (row) => row.sort),
  column("In", (row) => (row.table ? "table " : "") + row.what.join(", ")),
  column("Before", (row) => row.old),
  column("Now", (row) => row.new),
];

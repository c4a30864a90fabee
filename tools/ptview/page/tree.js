"use strict";
// The tree of tables. Rows below a table are made when it is opened.
class Tree {
  constructor(section) {
    this.list = section.querySelector(".tree");
    this.below = new Map();
    data.tables.forEach((table, at) => {
      const parent = table[TABLE_PARENT];
      if (!this.below.has(parent)) this.below.set(parent, []);
      this.below.get(parent).push(at);
    });
    this.list.append(...this.children(-1));
    // The root and what is below it.
    this.list.querySelectorAll(":scope > li").forEach((item) => this.open(item, true));
    const actions = { open: () => this.openAll(true), close: () => this.openAll(false), svg: () => saveFile("tables.svg", this.svg()) };
    section.querySelectorAll("button[data-do]").forEach((button) => button.addEventListener("click", actions[button.dataset.do]));
  }

  children(parent) { return (this.below.get(parent) || []).map((at) => this.item(at)); }

  words(table) {
    const level = levelOf(table[TABLE_LEVEL]);
    const end = table[TABLE_PAGE] + level.entries * level.pages;
    return `${level.name} frame ${hex(table[TABLE_FRAME])}  ${address(table[TABLE_PAGE])}-${address(end)}  `
      + `${table[TABLE_USED]} of ${level.entries}`;
  }

  item(at) {
    const table = data.tables[at];
    const item = document.createElement("li");
    item.dataset.table = at;
    item.setAttribute("role", "treeitem");
    const inner = this.below.has(at);
    item.innerHTML = `<div class="row" tabindex="0"><span class="mark">${inner ? "▸" : ""}</span><span class="bar"><span></span></span><span class="name"></span></div>`;
    item.querySelector(".name").textContent = this.words(table);
    const full = table[TABLE_USED] / levelOf(table[TABLE_LEVEL]).entries;
    item.querySelector(".bar span").style.width = `${Math.max(full * 100, 2)}%`;
    if (inner) item.setAttribute("aria-expanded", "false");
    const row = item.querySelector(".row");
    const toggle = () => { if (inner) this.open(item, item.getAttribute("aria-expanded") !== "true"); };
    row.addEventListener("click", toggle);
    row.addEventListener("keydown", (event) => {
      const actions = { Enter: toggle, " ": toggle, ArrowRight: () => this.open(item, true), ArrowLeft: () => this.open(item, false) };
      if (actions[event.key]) { event.preventDefault(); if (inner) actions[event.key](); }
    });
    return item;
  }

  open(item, open) {
    const at = Number(item.dataset.table);
    if (!this.below.has(at)) return;
    item.setAttribute("aria-expanded", String(open));
    item.querySelector(".mark").textContent = open ? "▾" : "▸";
    item.querySelector(":scope > ul")?.remove();
    if (!open) return;
    const list = document.createElement("ul");
    list.setAttribute("role", "group");
    list.append(...this.children(at));
    item.append(list);
  }

  openAll(open) {
    const items = [...this.list.children];
    while (items.length) {
      const item = items.pop();
      this.open(item, open);
      items.push(...item.querySelectorAll(":scope > ul > li"));
    }
  }

  // The rows that are open, as a picture.
  svg() {
    const items = [...this.list.querySelectorAll("li")];
    const [width, row] = [860, 22];
    const parts = items.map((item, number) => {
      const table = data.tables[item.dataset.table];
      const depth = table[TABLE_LEVEL] - data.tables[0][TABLE_LEVEL];
      const level = levelOf(table[TABLE_LEVEL]);
      const y = 48 + number * row;
      return words(16 + depth * 24, y + 14, this.words(table), "mono", "start")
        + rectangle("f-table", width - 136, width - 16, y + 5, y + 15)
        + rectangle("f-flag", width - 136, width - 136 + Math.max(2, 120 * table[TABLE_USED] / level.entries), y + 5, y + 15);
    });
    const height = 60 + items.length * row;
    const style = document.getElementById("file-css").textContent;
    return `<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 ${width} ${height}" width="${width}" height="${height}">`
      + `<style>${style}</style><title>Tables</title><rect class="paper" width="${width}" height="${height}"/>`
      + words(16, 28, "Tables", "", "start") + parts.join("") + "</svg>";
  }
}

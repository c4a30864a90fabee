"use strict";
// Draws any picture: rectangles on two scales, as much of them as is in view.
const MARGIN = { left: 136, right: 16, top: 10, bottom: 46 };
// Tenths of a row of names.
const ROW = 10;
const CHARACTER = 6.8;

// Where a value is on a scale, from 0 to 1.
function position(axis, value) {
  if (axis.kind === "names") return value / (axis.names.length * ROW);
  if (axis.kind === "numbers") return value / Math.max(axis.end, 1);
  let [low, high] = [0, axis.pieces.length];
  while (low < high) {
    const middle = (low + high) >> 1;
    if (axis.pieces[middle].end < value) low = middle + 1; else high = middle;
  }
  const piece = axis.pieces[low];
  if (!piece) return 1;
  if (value <= piece.start) return piece.from;
  return piece.from + (piece.to - piece.from) * (value - piece.start) / (piece.end - piece.start);
}

// 1, 2 or 5 times a power of ten, or a power of two: at most `most` of it to `end`.
function tickStep(end, most, binary) {
  let step = 1;
  if (binary) { while (end / step > most) step *= 2; return step; }
  for (;; step *= 10) for (const factor of [1, 2, 5]) if (end / (step * factor) <= most) return step * factor;
}

// Values with words, for what is in view from `low` to `high`.
function ticks(axis, low, high, pixels) {
  if (axis.kind === "names") return axis.names.map((name, row) => [row * ROW + ROW / 2, name]);
  if (axis.kind === "numbers") {
    const [first, last] = [low * axis.end, high * axis.end];
    const step = tickStep(last - first, Math.max(2, pixels / 90), false);
    const found = [];
    for (let value = Math.ceil(first / step) * step; value <= last; value += step) found.push([value, `${value / axis.unit}`]);
    return found;
  }
  const found = [];
  for (const piece of axis.pieces) {
    if (piece.to < low || piece.from > high) continue;
    const word = (value) => hex(value * 2 ** axis.shift);
    found.push([piece.start, word(piece.start)]);
    const length = piece.end - piece.start;
    const room = (piece.to - piece.from) / (high - low) * pixels;
    const step = tickStep(length, room / 120, true);
    const at = (place) => piece.start + Math.max(0, Math.min(1, (place - piece.from) / (piece.to - piece.from))) * length;
    let value = Math.ceil(Math.max(piece.start + step / 2, at(low)) / step) * step;
    for (; value < at(high) && found.length < 400; value += step) found.push([value, word(value)]);
  }
  return found;
}

class Chart {
  constructor(section, picture) {
    this.section = section;
    this.picture = picture;
    this.plot = section.querySelector(".plot");
    this.said = section.querySelector(".said");
    this.focused = null;
    this.layers = picture.layers.map((layer) => this.measure(layer));
    this.all = this.layers.flatMap((layer) => layer.order.map((at) => [layer, at]));
    if (picture.zoom !== "no") section.classList.add("zooms");
    else section.querySelectorAll("[data-do=in],[data-do=out],[data-do=all]").forEach((button) => button.remove());
    this.view = { x: [0, 1], y: [0, 1] };
    this.listen();
    new ResizeObserver(() => this.draw()).observe(this.plot);
  }

  // Places from 0 to 1 of all rectangles, once.
  measure(layer) {
    const { x, y } = this.picture;
    const count = layer.rects.length / 6;
    const places = new Float64Array(count * 4);
    for (let at = 0; at < count; at++) {
      const rect = layer.rects;
      places[at * 4] = position(x, rect[at * 6]);
      places[at * 4 + 1] = position(x, rect[at * 6 + 1]);
      places[at * 4 + 2] = position(y, rect[at * 6 + 2]);
      places[at * 4 + 3] = position(y, rect[at * 6 + 3]);
    }
    return { ...layer, places, order: Array.from({ length: count }, (_, at) => at) };
  }

  get width() { return Math.max(this.plot.clientWidth - MARGIN.left - MARGIN.right, 100); }
  get height() { return this.picture.height; }

  toX(place) { return MARGIN.left + (place - this.view.x[0]) / (this.view.x[1] - this.view.x[0]) * this.width; }
  toY(place) {
    const share = (place - this.view.y[0]) / (this.view.y[1] - this.view.y[0]);
    return MARGIN.top + (this.picture.upwards ? 1 - share : share) * this.height;
  }

  // The pixels of a rectangle: left, right, top, bottom; at least one of each.
  box(layer, at) {
    const places = layer.places;
    const [a, b] = [this.toX(places[at * 4]), this.toX(places[at * 4 + 1])];
    let [c, d] = [this.toY(places[at * 4 + 2]), this.toY(places[at * 4 + 3])];
    if (c > d) [c, d] = [d, c];
    return [a, Math.max(b, a + 1), c, Math.max(d, c + 1)];
  }

  draw() {
    const [width, height] = [MARGIN.left + this.width + MARGIN.right, MARGIN.top + this.height + MARGIN.bottom];
    const clip = `clip-${this.picture.name}`;
    this.plot.innerHTML = `<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 ${width} ${height}" width="${width}" height="${height}">`
      + `<title>${escaped(this.picture.title)}</title>`
      + `<clipPath id="${clip}"><rect x="${MARGIN.left}" y="${MARGIN.top - 1}" width="${this.width}" height="${this.height + 2}"/></clipPath>`
      + `<rect class="paper" width="${width}" height="${height}"/>`
      + `<g clip-path="url(#${clip})">${this.drawGround()}${this.layers.map((layer) => this.drawLayer(layer)).join("")}${this.drawFocus()}</g>`
      + this.drawX() + this.drawY() + "</svg>";
  }

  drawGround() {
    const pieces = this.picture.x.pieces || [{ from: 0, to: 1 }];
    return pieces.map((piece) => {
      const [left, right] = [this.toX(piece.from), this.toX(piece.to)];
      return rectangle("ground", left, right, MARGIN.top, MARGIN.top + this.height);
    }).join("");
  }

  drawLayer(layer) {
    const [right, bottom] = [MARGIN.left + this.width, MARGIN.top + this.height];
    const parts = [];
    let last = "";
    for (const at of layer.order) {
      let [a, b, c, d] = this.box(layer, at);
      if (b < MARGIN.left || a > right || d < MARGIN.top || c > bottom) continue;
      const fill = data.fills[layer.rects[at * 6 + 4]];
      // Of those that fall on the same pixels the first is drawn.
      const key = b - a <= 1.5 ? `${Math.round(a)} ${Math.round(c)} ${Math.round(d)}` : at;
      if (key === last) continue;
      last = key;
      const label = layer.labels && layer.labels[layer.rects[at * 6 + 5]];
      [a, b] = [Math.max(a, MARGIN.left - 3), Math.min(b, right + 3)];
      [c, d] = [Math.max(c, MARGIN.top - 3), Math.min(d, bottom + 3)];
      if (layer.of === "frame" && Math.max(b - a, d - c) > 3) parts.push(this.drawRising(layer, at, `f-${fill}`));
      else parts.push(rectangle(`f-${fill}`, a, b - a > 4 ? b - 0.6 : b, c, d));
      if (label) parts.push(this.drawLabel(layer.of, label, a, b, c, d));
    }
    return `<g>${parts.join("")}</g>`;
  }

  // A bar from the lower left to the upper right: frames that grow with addresses.
  drawRising(layer, at, name) {
    const [a, b, c, d] = this.box(layer, at).map(round);
    return `<polygon class="${name}" points="${a},${d - 1.8} ${b},${c - 1.8} ${b},${c + 1.8} ${a},${d + 1.8}"/>`;
  }

  drawLabel(of, label, a, b, c, d) {
    if (of === "bar") return words((a + b) / 2, c - 4, label, "", "middle");
    const room = Math.floor((b - a - 8) / CHARACTER);
    if (label.length > room && room < 4) return "";
    // Of a path the end tells most.
    const short = label.startsWith("/") ? "…" + label.slice(label.length - room + 1) : label.slice(0, room - 1) + "…";
    const text = label.length > room ? short : label;
    return words(a + 4, (c + d) / 2 + 4, text, "", "start");
  }

  drawFocus() {
    if (!this.focused) return "";
    const [a, b, c, d] = this.box(...this.focused);
    return rectangle("focus", a - 1, b + 1, c - 1, d + 1);
  }

  drawX() {
    const axis = this.picture.x;
    const bottom = MARGIN.top + this.height;
    const [start, end] = [MARGIN.left, MARGIN.left + this.width];
    let [free, parts] = [0, []];
    for (const [value, word] of ticks(axis, ...this.view.x, this.width)) {
      const at = this.toX(position(axis, value));
      if (at < start - 1 || at > end + 1) continue;
      const size = word.length * CHARACTER;
      const left = axis.kind === "names" ? at - size / 2 : Math.min(at, end - size);
      if (left < free) continue;
      if (axis.kind !== "names") parts.push(`<line x1="${at}" x2="${at}" y1="${bottom}" y2="${bottom + 5}"/>`);
      parts.push(words(left, bottom + 18, word, "mono faint", "start"));
      free = left + size + 12;
    }
    return parts.join("") + words((start + end) / 2, bottom + 37, axis.title, "faint", "middle");
  }

  drawY() {
    const axis = this.picture.y;
    const parts = [];
    const places = [];
    for (const [value, word] of ticks(axis, ...this.view.y, this.height)) {
      const at = this.toY(position(axis, value));
      if (at < MARGIN.top - 1 || at > MARGIN.top + this.height + 1) continue;
      if (places.some((place) => Math.abs(place - at) < 14)) continue;
      places.push(at);
      if (axis.kind !== "names") parts.push(`<line x1="${MARGIN.left - 5}" x2="${MARGIN.left}" y1="${at}" y2="${at}"/>`);
      parts.push(words(MARGIN.left - 8, at + 4, word, axis.kind === "names" ? "" : "mono faint", "end"));
    }
    const middle = MARGIN.top + this.height / 2;
    return parts.join("") + `<g transform="translate(14 ${middle}) rotate(-90)">${words(0, 0, axis.title, "faint", "middle")}</g>`;
  }

  // Makes what is in view larger by `factor`, around the place (x, y) of it, from 0 to 1.
  zoom(factor, x = 0.5, y = 0.5) {
    if (this.picture.zoom === "no") return;
    const one = ([low, high], at) => {
      const size = Math.min(1, Math.max((high - low) / factor, 1e-9));
      const start = Math.min(1 - size, Math.max(0, low + (high - low - size) * at));
      return [start, start + size];
    };
    this.view.x = one(this.view.x, x);
    if (this.picture.zoom === "xy") this.view.y = one(this.view.y, y);
    this.draw();
  }

  // Moves by shares of what is in view.
  move(dx, dy) {
    const one = ([low, high], by) => {
      const step = Math.min(1 - high, Math.max(-low, by * (high - low)));
      return [low + step, high + step];
    };
    this.view.x = one(this.view.x, dx);
    if (this.picture.zoom === "xy") this.view.y = one(this.view.y, this.picture.upwards ? -dy : dy);
    this.draw();
  }

  showAll() { this.view = { x: [0, 1], y: [0, 1] }; this.focused = null; this.say(null); this.draw(); }

  // Brings values of the x scale into view, with some room around them.
  showSpan(start, end) {
    const [from, to] = [position(this.picture.x, start), position(this.picture.x, end)];
    const room = Math.max((to - from) * 2, 1e-9);
    this.view.x = [Math.max(0, from - room), Math.min(1, to + room)];
    this.draw();
  }

  // What is at a pixel: the topmost, with two pixels of patience.
  find(x, y) {
    for (const layer of [...this.layers].reverse()) {
      for (let place = layer.order.length - 1; place >= 0; place--) {
        const at = layer.order[place];
        const [a, b, c, d] = this.box(layer, at);
        if (x >= a - 2 && x <= b + 2 && y >= c - 1 && y <= d + 1) return [layer, at];
      }
    }
    return null;
  }

  words([layer, at]) {
    const rect = layer.rects.slice(at * 6, at * 6 + 6);
    return describe[layer.of](rect, this.picture);
  }

  say(found) { this.said.textContent = found ? this.words(found).replaceAll("\n", "   ") : ""; }

  // Goes to the next thing, or the one before.
  step(by) {
    if (!this.all.length) return;
    const here = this.focused ? this.all.findIndex(([layer, at]) => layer === this.focused[0] && at === this.focused[1]) : -1;
    this.focused = this.all[here < 0 && by < 0 ? this.all.length - 1 : (here + by + this.all.length) % this.all.length];
    const [a, b] = this.box(...this.focused);
    if (b < MARGIN.left || a > MARGIN.left + this.width) {
      const middle = (this.focused[0].places[this.focused[1] * 4] + this.focused[0].places[this.focused[1] * 4 + 1]) / 2;
      this.move((middle - (this.view.x[0] + this.view.x[1]) / 2) / (this.view.x[1] - this.view.x[0]), 0);
    }
    this.say(this.focused);
    this.draw();
  }

  place(event) {
    const box = this.plot.getBoundingClientRect();
    return [event.clientX - box.left, event.clientY - box.top];
  }

  listen() {
    this.plot.addEventListener("wheel", (event) => this.wheel(event), { passive: false });
    this.plot.addEventListener("keydown", (event) => this.key(event));
    this.plot.addEventListener("pointermove", (event) => this.pointer(event));
    this.plot.addEventListener("pointerleave", () => { tip.hidden = true; });
    this.plot.addEventListener("pointerdown", (event) => {
      this.held = this.place(event);
      this.moved = false;
      this.plot.setPointerCapture(event.pointerId);
    });
    this.plot.addEventListener("pointerup", (event) => {
      if (!this.moved) { this.focused = this.find(...this.place(event)); this.say(this.focused); this.draw(); }
      this.held = null;
    });
    const actions = { in: () => this.zoom(2), out: () => this.zoom(0.5), all: () => this.showAll(), svg: () => this.save() };
    this.section.querySelectorAll("button[data-do]").forEach((button) => button.addEventListener("click", actions[button.dataset.do]));
  }

  wheel(event) {
    const whole = this.view.x[1] - this.view.x[0] >= 1;
    // Where nothing is to be zoomed the page scrolls.
    if (this.picture.zoom === "no" || whole && event.deltaY > 0) return;
    event.preventDefault();
    if (event.shiftKey || Math.abs(event.deltaX) > Math.abs(event.deltaY)) {
      this.move((event.deltaX || event.deltaY) / this.width, 0);
      return;
    }
    const [x, y] = this.place(event);
    const share = (y - MARGIN.top) / this.height;
    this.zoom(2 ** (-event.deltaY / 240), (x - MARGIN.left) / this.width, this.picture.upwards ? 1 - share : share);
  }

  key(event) {
    if (event.ctrlKey || event.metaKey || event.altKey) return;
    const actions = {
      "+": () => this.zoom(1.5), "=": () => this.zoom(1.5), "-": () => this.zoom(1 / 1.5), "0": () => this.showAll(),
      ArrowLeft: () => this.move(-0.15, 0), ArrowRight: () => this.move(0.15, 0),
      ArrowUp: () => this.move(0, -0.15), ArrowDown: () => this.move(0, 0.15),
      ",": () => this.step(-1), ".": () => this.step(1), Escape: () => this.showAll(),
    };
    const vertical = event.key === "ArrowUp" || event.key === "ArrowDown";
    if (!actions[event.key] || vertical && this.picture.zoom !== "xy") return;
    event.preventDefault();
    actions[event.key]();
  }

  pointer(event) {
    const [x, y] = this.place(event);
    if (this.held) {
      const [dx, dy] = [this.held[0] - x, this.held[1] - y];
      if (this.moved || Math.hypot(dx, dy) > 3) {
        this.moved = true;
        this.held = [x, y];
        tip.hidden = true;
        this.move(dx / this.width, dy / this.height);
      }
      return;
    }
    const inside = x >= MARGIN.left && x <= MARGIN.left + this.width && y >= MARGIN.top && y <= MARGIN.top + this.height;
    const found = inside ? this.find(x, y) : null;
    showTip(found && this.words(found), event);
    if (!this.focused) this.say(found);
  }

  // What is in view, as a file of its own.
  svg() {
    const text = this.plot.innerHTML;
    const style = document.getElementById("file-css").textContent;
    return text.replace(/(<title>)/, `<style>${style}</style>$1`);
  }

  save() { saveFile(`${this.picture.name}.svg`, this.svg()); }
}

const tip = document.getElementById("tip");
function showTip(text, event) {
  tip.hidden = !text;
  if (!text) return;
  tip.textContent = text;
  const [width, height] = [tip.offsetWidth, tip.offsetHeight];
  tip.style.left = `${Math.max(4, Math.min(event.clientX + 14, innerWidth - width - 8))}px`;
  tip.style.top = `${event.clientY + 18 + height > innerHeight ? event.clientY - height - 12 : event.clientY + 18}px`;
}

function escaped(text) {
  return text.replace(/[&<>"]/g, (character) => `&#${character.charCodeAt(0)};`);
}
const round = (value) => Math.round(value * 100) / 100;
function rectangle(name, a, b, c, d) {
  return `<rect class="${name}" x="${round(a)}" y="${round(c)}" width="${round(Math.max(b - a, 0))}" height="${round(d - c)}"/>`;
}
function words(x, y, text, name, anchor) {
  return `<text x="${round(x)}" y="${round(y)}" class="${name}" text-anchor="${anchor}">${escaped(text)}</text>`;
}
function saveFile(name, text) {
  const link = document.createElement("a");
  link.href = URL.createObjectURL(new Blob([text], { type: "image/svg+xml" }));
  link.download = name;
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 1000);
}

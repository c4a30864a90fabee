"use strict";
// What the page knows, and words for it.
const data = JSON.parse(document.getElementById("data").textContent);
const [RUN_START, RUN_END, RUN_LEVEL, RUN_SAID, RUN_WORD, RUN_FRAME, RUN_JOINED] = [0, 1, 2, 3, 4, 5, 6];
const [TABLE_LEVEL, TABLE_PAGE, TABLE_FRAME, TABLE_USED, TABLE_PARENT] = [0, 1, 2, 3, 4];

// Addresses have up to 52 bits: a number holds them.
const hex = (number) => "0x" + number.toString(16);
const address = (page) => hex(page * 2 ** data.page_shift);
const plural = (number, word) => `${number} ${word}${number === 1 ? "" : "s"}`;
const pages = (number) => plural(number, "page");

function size(number) {
  let bytes = number * 2 ** data.page_shift;
  for (const unit of ["B", "KiB", "MiB", "GiB"]) {
    if (bytes < 1024) return `${Math.round(bytes * 10) / 10} ${unit}`;
    bytes /= 1024;
  }
  return `${Math.round(bytes * 10) / 10} TiB`;
}

const span = (start, end) => `${address(start)}-${address(end)}  ${pages(end - start)}, ${size(end - start)}`;
const levelOf = (number) => data.levels.find((level) => level.level === number);
const levelName = (level) => `L${level} ${levelOf(level).name}`;

// The mapping that a page is in.
function regionOf(page) {
  let [low, high] = [0, data.regions.length];
  while (low < high) {
    const middle = (low + high) >> 1;
    if (data.regions[middle][1] <= page) low = middle + 1; else high = middle;
  }
  const region = data.regions[low];
  return region && region[0] <= page ? region : null;
}

// The fill of a run, as the pictures have it.
function fillOf(said) {
  if (said.kind !== "page" && said.kind !== "block") {
    return ["noacc", "swap", "poison", "moving", "device"].includes(said.kind) ? said.kind : "other";
  }
  const [read, write, execute] = ["r", "w", "x"].map((letter) => said.el0.includes(letter));
  if (write) return execute ? "wx" : "write";
  if (execute) return read ? "exec" : "xonly";
  return read ? "read" : "kernel";
}

const describe = {
  run(rect) {
    const run = data.runs[rect[5]];
    const said = data.attributes[run[RUN_SAID]];
    const region = regionOf(run[RUN_START]);
    const frames = run[RUN_FRAME] === null ? "" : `frame ${hex(run[RUN_FRAME])}`
      + (run[RUN_JOINED] ? "" : " (frames do not follow each other)");
    const lines = [
      span(run[RUN_START], run[RUN_END]),
      `${levelName(run[RUN_LEVEL])}  ${said.kind}  EL0 ${said.el0 || "---"}  EL1 ${said.el1 || "---"}`,
      [said.memory, said.shareability, ...said.flags, said.more].filter(Boolean).join(" "),
      `descriptor ${run[RUN_WORD]}  ${frames}`,
      region ? `${region[2]} ${region[3]}` : "",
      run[RUN_JOINED] > 1 ? `stands for ${run[RUN_JOINED]} runs` : "",
    ];
    return lines.filter((line) => line.trim()).join("\n");
  },
  table(rect) { return describeTable(data.tables[rect[5]]); },
  region(rect) {
    const [start, end, permissions, name] = data.regions[rect[5]];
    return `${span(start, end)}\n${permissions} ${name || "anonymous"}`;
  },
  change(rect) { return describeChange(data.changes[rect[5]]); },
  frame(rect) {
    return `${span(rect[0], rect[1])}\nframes ${hex(rect[2])}-${hex(rect[3])}`;
  },
  cell(rect) {
    return `${address(rect[0])}-${address(rect[1])}\nframes ${hex(rect[2])}-${hex(rect[3])}\n${pages(rect[5])} here`;
  },
  warmth(rect, picture) { return `${span(rect[0], rect[1])}\nin ${plural(rect[5], "round")}`; },
  span(rect, picture) {
    const happened = rect[5] ? `${wordOf(picture)}, as in ${plural(rect[5], "round")}`
      : data.fills[rect[4]] === "uncertain" ? `perhaps ${wordOf(picture)}` : "not in memory";
    return `${roundWords(rect[0], picture)}\n${span(rect[2], rect[3])}\n${happened}`;
  },
  share(rect, picture) {
    return `${roundWords(rect[0], picture)} to ${rect[1]}\n${address(rect[2])}-${address(rect[3])}\n`
      + `${pages(rect[5])} ${wordOf(picture)}`;
  },
  round(rect, picture) { return `${roundWords(rect[5], picture)}\n${pages(rect[3])} ${wordOf(picture)}`; },
  bar(rect, picture) {
    return `${picture.x.names[rect[5]]} ${picture.x.title}: ${picture.layers[0].labels[rect[5]]}`;
  },
};

function describeTable(table) {
  if (!table) return "a table that is not listed";
  const level = levelOf(table[TABLE_LEVEL]);
  return `${levelName(table[TABLE_LEVEL])} table, frame ${hex(table[TABLE_FRAME])}\n`
    + `${address(table[TABLE_PAGE])}-${address(table[TABLE_PAGE] + level.entries * level.pages)}\n`
    + `${table[TABLE_USED]} of ${level.entries} entries used`;
}

function describeChange(change) {
  return `${span(change.start, change.end)}\nL${change.level} ${change.sort} ${change.what.join(", ")}`
    + `  ${change.entries} ${change.entries === 1 ? "entry" : "entries"}\n${change.old} → ${change.new}`;
}

// The rounds that a picture is about.
const heatOf = (picture) => data.rounds.find(([word]) => picture.title.includes(word)) || ["", []];
const wordOf = (picture) => heatOf(picture)[0];
function roundWords(place, picture) {
  const round = heatOf(picture)[1][place];
  if (!round) return `round ${place + 1}`;
  const [number, time, watched] = round;
  return `round ${number}${time === null ? "" : `, at ${time} ms`}${watched === null ? "" : `, ${pages(watched)} watched`}`;
}

"use strict";
const data = JSON.parse(document.getElementById("data").textContent);
const canvas = document.getElementById("view"), pen = canvas.getContext("2d");
const chosen = (name) => document.querySelector(`input[name="${name}"]:checked`).value;
const opacity = document.getElementById("opacity"), told = document.getElementById("told");
const images = new Map();
let scale = 1, left = 0, top_ = 0, asked = false, moved = false, crossed = false;

function image(source) {
  if (!images.has(source)) {
    const made = new Image();
    made.onload = redraw;
    made.src = source;
    images.set(source, made);
  }
  const found = images.get(source);
  return found.complete && found.naturalWidth ? found : null;
}

function redraw() {
  if (!asked) { asked = true; requestAnimationFrame(() => { asked = false; draw(); }); }
}

function whole_scale() {
  return Math.min(canvas.clientWidth / data.width, canvas.clientHeight / data.height);
}

function fit() {
  scale = 0.97 * whole_scale();
  left = (data.width - canvas.clientWidth / scale) / 2;
  top_ = (data.height - canvas.clientHeight / scale) / 2;
  redraw();
}

function colour(measure, value) {
  const { colours, low, high } = data.measures[measure];
  const share = Math.min(1, Math.max(0, (value - low[chosen("grain")]) / (high[chosen("grain")] - low[chosen("grain")])));
  return colours[Math.round(share * (colours.length - 1))];
}

function tile(bag) {
  const wanted = data.side * scale * devicePixelRatio;
  const levels = data.levels.filter((level) => level.tiles[bag] !== undefined);
  const best = levels.find((level) => level.px >= wanted) ?? levels.at(-1);
  const order = best ? [best, ...levels.filter((level) => level !== best)] : [];
  for (const level of order) {
    const found = image(level.tiles[bag]);
    if (found) return found;
  }
  return null;
}

function draw() {
  const ratio = devicePixelRatio, width = canvas.clientWidth, height = canvas.clientHeight;
  if (canvas.width !== Math.round(width * ratio) || canvas.height !== Math.round(height * ratio)) {
    canvas.width = Math.round(width * ratio);
    canvas.height = Math.round(height * ratio);
  }
  pen.setTransform(ratio, 0, 0, ratio, 0, 0);
  pen.fillStyle = "#f7f7f7";
  pen.fillRect(0, 0, width, height);
  pen.setTransform(ratio * scale, 0, 0, ratio * scale, -left * scale * ratio, -top_ * scale * ratio);
  pen.filter = chosen("slide") === "grey" ? "grayscale(1)" : "none";
  const overview = data.overview ? image(data.overview) : null;
  if (overview) pen.drawImage(overview, 0, 0, data.overview_width, data.overview_height);
  const seen = data.bags.filter((bag) => bag.x + data.side > left && bag.y + data.side > top_
    && bag.x < left + width / scale && bag.y < top_ + height / scale);
  if (data.side * scale * ratio > data.overview_px) {
    for (const bag of seen) {
      const found = tile(bag.n);
      if (found) pen.drawImage(found, bag.x, bag.y, data.side, data.side);
    }
  }
  pen.filter = "none";
  paint(seen);
  pen.globalAlpha = 1;
  for (const bag of seen.filter((one) => one.rank)) {
    pen.lineWidth = 3 / scale; pen.strokeStyle = "#fff"; pen.strokeRect(bag.x, bag.y, data.side, data.side);
    pen.lineWidth = 1.5 / scale; pen.strokeStyle = "#000"; pen.strokeRect(bag.x, bag.y, data.side, data.side);
    pen.font = `bold ${14 / scale}px sans-serif`;
    pen.fillStyle = "#fff"; pen.fillRect(bag.x + 3 / scale, bag.y + 3 / scale, 14 / scale, 17 / scale);
    pen.fillStyle = "#000"; pen.fillText(String(bag.rank), bag.x + 6 / scale, bag.y + 17 / scale);
  }
  pen.setTransform(ratio, 0, 0, ratio, 0, 0);
  if (crossed) cross(width / 2, height / 2);
  if (data.mpp) bar(height);
}

function cross(x, y) {
  for (const [thick, ink] of [[4, "#fff"], [1.5, "#000"]]) {
    pen.lineWidth = thick; pen.strokeStyle = ink;
    pen.beginPath();
    pen.moveTo(x - 10, y); pen.lineTo(x + 10, y); pen.moveTo(x, y - 10); pen.lineTo(x, y + 10);
    pen.stroke();
  }
}

function bar(height) {
  const most = 140 * data.mpp / scale, ten = 10 ** Math.floor(Math.log10(most));
  const microns = [5, 2, 1].find((step) => step * ten <= most) * ten, long = microns * scale / data.mpp;
  const text = microns >= 1000 ? `${microns / 1000} mm` : `${microns} µm`;
  pen.font = "13px sans-serif";
  pen.fillStyle = "rgba(255, 255, 255, 0.85)";
  pen.fillRect(10, height - 38, Math.max(long, pen.measureText(text).width) + 16, 28);
  pen.fillStyle = "#000";
  pen.fillRect(18, height - 18, long, 3);
  pen.fillText(text, 18, height - 23);
  canvas.dataset.bar = text;
}

function paint(seen) {
  const measure = chosen("measure"), words = chosen("grain") === "words";
  if (measure === "none") return;
  pen.globalAlpha = Number(opacity.value) / 100;
  const step = data.side / data.words;
  for (const bag of seen) {
    if (!words) {
      pen.fillStyle = colour(measure, bag[measure]);
      pen.fillRect(bag.x, bag.y, data.side, data.side);
      continue;
    }
    bag.words[measure].forEach((value, word) => {
      pen.fillStyle = colour(measure, value);
      pen.fillRect(bag.x + (word % data.words) * step, bag.y + Math.floor(word / data.words) * step, step, step);
    });
  }
}

function zoom(factor, x, y) {
  moved = true;
  const next = Math.min(8, Math.max(scale * factor, 0.2 * whole_scale()));
  const dx = x / scale - x / next, dy = y / scale - y / next;
  scale = next;
  move(dx, dy);
}

function move(dx, dy) {
  const wide = canvas.clientWidth / scale / 2, high = canvas.clientHeight / scale / 2;
  left = Math.min(data.width - wide, Math.max(-wide, left + dx)); // the middle of the view stays on the slide
  top_ = Math.min(data.height - high, Math.max(-high, top_ + dy));
  redraw();
}

function tell(x, y) {
  const px = left + x / scale, py = top_ + y / scale;
  const bag = data.bags.find((one) => px >= one.x && py >= one.y && px < one.x + data.side && py < one.y + data.side);
  if (!bag) { told.textContent = data.hint; return; }
  const step = data.side / data.words;
  const word = Math.floor((py - bag.y) / step) * data.words + Math.floor((px - bag.x) / step);
  const number = (value) => value.toPrecision(3).replace("-", "−");
  told.textContent = `Bag ${bag.n}: weight ${number(bag.weight)} × even share, effect ${number(bag.effect)}. `
    + `Word ${word}: weight ${number(bag.words.weight[word])} × even share, effect ${number(bag.words.effect[word])}.`;
}

function legend() {
  const measure = chosen("measure"), grain = chosen("grain"), box = document.getElementById("legend");
  box.hidden = measure === "none";
  if (box.hidden) return;
  const { colours, low, high, unit } = data.measures[measure];
  const number = (value) => value.toPrecision(2).replace("-", "−");
  box.querySelector("i").style.background = `linear-gradient(to right, ${colours.join(",")})`;
  const [from, to, what] = box.querySelectorAll(".end, small");
  from.textContent = number(low[grain]); to.textContent = number(high[grain]); what.textContent = unit;
}

const fingers = new Map();
canvas.addEventListener("pointerdown", (event) => {
  canvas.setPointerCapture(event.pointerId);
  fingers.set(event.pointerId, [event.offsetX, event.offsetY]);
});
canvas.addEventListener("pointermove", (event) => {
  const was = fingers.get(event.pointerId), now = [event.offsetX, event.offsetY];
  if (crossed) { crossed = false; redraw(); }
  if (!was) { tell(...now); return; }
  const other = [...fingers].find(([id]) => id !== event.pointerId)?.[1];
  if (other) {
    const span = (a) => Math.hypot(a[0] - other[0], a[1] - other[1]) || 1;
    zoom(span(now) / span(was), (now[0] + other[0]) / 2, (now[1] + other[1]) / 2);
  } else {
    moved = true;
    move(-(now[0] - was[0]) / scale, -(now[1] - was[1]) / scale);
  }
  fingers.set(event.pointerId, now);
});
for (const name of ["pointerup", "pointercancel"]) {
  canvas.addEventListener(name, (event) => { fingers.delete(event.pointerId); tell(event.offsetX, event.offsetY); });
}
canvas.addEventListener("wheel", (event) => {
  event.preventDefault();
  zoom(Math.exp(-event.deltaY / 400), event.offsetX, event.offsetY);
}, { passive: false });
canvas.addEventListener("keydown", (event) => {
  const middle = [canvas.clientWidth / 2, canvas.clientHeight / 2], step = 60 / scale;
  const moves = { ArrowLeft: [-step, 0], ArrowRight: [step, 0], ArrowUp: [0, -step], ArrowDown: [0, step] };
  const factors = { "+": 1.4, "=": 1.4, "-": 1 / 1.4 };
  if (event.ctrlKey || event.metaKey || event.altKey) return;
  if (moves[event.key]) { moved = true; move(...moves[event.key]); }
  else if (factors[event.key]) zoom(factors[event.key], ...middle);
  else if (event.key === "0") whole();
  else return;
  event.preventDefault();
  crossed = true;
  tell(...middle);
});
for (const [id, factor] of [["in", 1.6], ["out", 1 / 1.6]]) {
  document.getElementById(id).addEventListener("click", () => zoom(factor, canvas.clientWidth / 2, canvas.clientHeight / 2));
}
function whole() { moved = false; fit(); }
document.getElementById("fit").addEventListener("click", whole);
for (const input of document.querySelectorAll("input")) input.addEventListener("input", () => { legend(); redraw(); });
new ResizeObserver(() => (moved ? redraw() : fit())).observe(canvas);
legend();

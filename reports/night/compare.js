"use strict";
// Two answers side by side: a slider between them, linked panes that zoom, and where they differ.
// Pixels are those that were scored (by_hand.py), so that PSNR and differences are exact here too.
document.addEventListener("DOMContentLoaded", () =>
  document.querySelectorAll(".compare").forEach(byHand));

const ZOOMS = [192, 160, 128, 96, 64, 48, 32, 24, 16, 12, 8]; // pixels that a pane shows, a side
const REACH = 4; // of the square round a pixel whose PSNR the map shows: 9 pixels wide
const FLOOR = 1; // squared levels: what is nearer to HR than a level is as good as that
const PIXELS = 768; // of a pane's canvas
const COLOUR = { a: [47, 128, 196], b: [201, 113, 26], both: [140, 114, 214] };
const MARKUP = `
  <div class="choose">
    <label class="wide">Picture <select data-is="crop"></select></label>
    <label class="a"><b>A</b> <select data-is="a"></select></label>
    <button type="button" data-is="swap" title="Change places" aria-label="A and B change places">⇄</button>
    <label class="b"><b>B</b> <select data-is="b"></select></label>
  </div>
  <div class="look">
    <div class="slide">
      <div class="stage" data-is="stage"><canvas data-is="both" role="img"></canvas>
        <i data-is="line"></i><span class="a" data-is="left"></span><span class="b" data-is="right"></span></div>
      <input type="range" min="0" max="100" step="1" value="50" data-is="split" aria-label="How much of A is shown, from the left">
    </div>
    <div class="beside">
      <canvas data-is="whole" role="img" aria-label="Where the view lies in the picture"></canvas>
      <table role="status"><thead><tr><th>PSNR-Y, dB</th><th>in view</th><th>crop</th></tr></thead>
        <tbody data-is="scores"></tbody></table>
      <p class="zooms"><button type="button" data-is="in" aria-label="Zoom in">+</button>
        <button type="button" data-is="out" aria-label="Zoom out">−</button>
        <button type="button" data-is="window">Figure’s window</button> <small data-is="place"></small></p>
    </div>
  </div>
  <div class="panes">
    <div class="a" data-is="nameA"></div><canvas data-is="paneA" tabindex="0" role="img"></canvas>
    <div class="b" data-is="nameB"></div><canvas data-is="paneB" tabindex="0" role="img"></canvas>
    <div><select data-is="kind" aria-label="What the map shows">
      <option value="gain">Map: local PSNR, B − A</option><option value="difference">Map: |A − B|</option></select></div>
    <canvas data-is="map" tabindex="0" role="img"></canvas>
  </div>
  <p class="key"><span data-is="key"></span> Drag a pane, or use the arrow keys on it, to move all;
    <kbd>+</kbd> and <kbd>−</kbd> zoom, <kbd>0</kbd> goes back to the figure’s window. The slider moves by
    the arrow keys, or by dragging in the large picture. The address keeps picture, A and B.</p>`;

function byHand(place) {
  const { crops, names } = JSON.parse(place.querySelector("script").textContent);
  if (!crops.length) {
    place.textContent = "Nothing to show: this budget trains no such students, or has fewer test images.";
    return;
  }
  place.innerHTML = MARKUP;
  const at = {};
  place.querySelectorAll("[data-is]").forEach((one) => (at[one.dataset.is] = one));
  // all are asked for at once: a change of picture then waits for nothing
  const load = (address) => Object.assign(new Image(), { src: address });
  const images = crops.map((crop) => ({ pixels: load(crop.pixels), whole: load(crop.whole) }));
  const state = { crop: -1, a: "kd", b: "augkd", kind: "gain", split: 50, x: 0, y: 0, side: 0 };
  let crop, layers, map;

  const option = (value, text) => new Option(text, value);
  const groups = {};
  crops.forEach(({ key }, k) => {
    const [cohort, dataset, image, kind] = key.split("/");
    groups[cohort] ??= Object.assign(document.createElement("optgroup"), { label: cohort });
    groups[cohort].append(option(k, `${image} (${dataset}), ${kind} window`));
  });
  at.crop.append(...Object.values(groups));

  function choose(k, a = state.a, b = state.b) {
    const { pixels } = images[k];
    if (!pixels.complete) return void (pixels.onload = () => choose(k, a, b));
    if (k !== state.crop) {
      [state.crop, crop] = [k, crops[k]];
      layers = decode(pixels, crop);
      for (const side of [at.a, at.b]) side.replaceChildren(...crop.answers.map((n) => option(n, names[n] || n)));
      home();
    }
    const known = (name, other) => (crop.answers.includes(name) ? name : other);
    [state.a, state.b] = [known(a, "bicubic"), known(b, "teacher")];
    [at.crop.value, at.a.value, at.b.value] = [k, state.a, state.b];
    map = drawMap(layers, crop, state);
    history.replaceState(null, "", `#image=${crop.key}&a=${state.a}&b=${state.b}`);
    draw();
  }

  function home() {
    const [left, top, side] = crop.window;
    look(left - crop.box[0], top - crop.box[1], side);
  }

  function look(x, y, side) {
    const [, , width, height] = crop.box;
    state.side = Math.min(side, width, height);
    state.x = Math.round(Math.min(Math.max(x, 0), width - state.side));
    state.y = Math.round(Math.min(Math.max(y, 0), height - state.side));
  }

  function move(x, y, side = state.side) {
    look(x, y, side);
    draw();
  }

  function zoom(way) {
    const { x, y, side } = state;
    const next = way > 0 ? ZOOMS.find((z) => z < side) : ZOOMS.findLast((z) => z > side);
    if (next) move(x + (side - next) / 2, y + (side - next) / 2, next);
  }

  function paint(canvas, layer, from = 0) {
    if (canvas.width !== PIXELS) canvas.width = canvas.height = PIXELS;
    const context = canvas.getContext("2d"), { x, y, side } = state, start = from * PIXELS;
    context.save();
    context.imageSmoothingEnabled = false;
    context.beginPath();
    context.rect(start, 0, PIXELS - start, PIXELS);
    context.clip();
    context.clearRect(0, 0, PIXELS, PIXELS);
    context.drawImage(layer, x, y, side, side, 0, 0, PIXELS, PIXELS);
    context.restore();
  }

  function draw() {
    const { a, b, split, x, y, side } = state, nameA = names[a] || a, nameB = names[b] || b;
    paint(at.both, layers[a].canvas);
    paint(at.both, layers[b].canvas, split / 100);
    at.line.style.left = `${split}%`;
    at.both.ariaLabel = `${nameA} left of ${split} %, ${nameB} right of it`;
    [at.left.textContent, at.right.textContent] = [nameA, nameB];
    [at.left.hidden, at.right.hidden] = [split < 8, split > 92];
    paint(at.paneA, layers[a].canvas);
    paint(at.paneB, layers[b].canvas);
    paint(at.map, map.canvas);
    [at.nameA.textContent, at.nameB.textContent] = [`A: ${nameA}`, `B: ${nameB}`];
    [at.paneA.ariaLabel, at.paneB.ariaLabel, at.map.ariaLabel] = [nameA, nameB, map.said];
    at.key.innerHTML = map.key;
    const context = at.whole.getContext("2d"), { whole } = images[state.crop];
    [at.whole.width, at.whole.height] = [whole.naturalWidth, whole.naturalHeight];
    const scale = whole.naturalWidth / crop.size[0];
    context.drawImage(whole, 0, 0);
    context.strokeStyle = "#ffd84d";
    context.lineWidth = 1.5;
    context.strokeRect((crop.box[0] + x) * scale, (crop.box[1] + y) * scale, side * scale, side * scale);
    scores([x, y, side, side], [0, 0, crop.box[2], crop.box[3]]);
    at.place.textContent = `${side} × ${side} pixels`;
    place.dataset.shown = JSON.stringify({ key: crop.key, a, b, split, x, y, side });
  }

  function scores(...parts) {
    const of = (name) => parts.map((part) => psnr(layers[name].luma, layers.hr.luma, crop.box[2], part));
    const [a, b] = [of(state.a), of(state.b)];
    const text = (value) => (Number.isFinite(value) ? value.toFixed(2) : "exact");
    const row = (letter, name, values) => `<tr><th class="${letter}">${name}</th>${values.map((v) => `<td class="n">${v}</td>`).join("")}</tr>`;
    const gains = a.map((value, k) => signed(b[k] - value));
    at.scores.innerHTML = row("a", "A", a.map(text)) + row("b", "B", b.map(text)) + row("", "B − A", gains);
  }

  at.crop.addEventListener("change", () => choose(+at.crop.value));
  at.a.addEventListener("change", () => choose(state.crop, at.a.value));
  at.b.addEventListener("change", () => choose(state.crop, state.a, at.b.value));
  at.swap.addEventListener("click", () => choose(state.crop, state.b, state.a));
  at.kind.addEventListener("change", () => {
    state.kind = at.kind.value;
    map = drawMap(layers, crop, state);
    draw();
  });
  at.in.addEventListener("click", () => zoom(1));
  at.out.addEventListener("click", () => zoom(-1));
  at.window.addEventListener("click", () => { home(); draw(); });
  const slide = (value) => {
    state.split = Math.min(Math.max(Math.round(value), 0), 100);
    at.split.value = state.split;
    draw();
  };
  at.split.addEventListener("input", () => slide(+at.split.value));
  const share = (event) => {
    const box = at.stage.getBoundingClientRect();
    slide((100 * (event.clientX - box.left)) / box.width);
  };
  at.stage.addEventListener("pointerdown", (event) => { at.stage.setPointerCapture?.(event.pointerId); share(event); });
  at.stage.addEventListener("pointermove", (event) => event.buttons && share(event));

  for (const pane of [at.paneA, at.paneB, at.map]) {
    let start;
    pane.addEventListener("pointerdown", (event) => {
      pane.setPointerCapture?.(event.pointerId);
      start = { x: event.clientX, y: event.clientY, from: { ...state } };
    });
    pane.addEventListener("pointermove", (event) => {
      if (!event.buttons || !start) return;
      const step = state.side / pane.clientWidth;
      move(start.from.x - (event.clientX - start.x) * step, start.from.y - (event.clientY - start.y) * step);
    });
    pane.addEventListener("wheel", (event) => {
      if (document.activeElement !== pane && !event.ctrlKey) return; // else the page scrolls
      event.preventDefault();
      zoom(-event.deltaY);
    });
    pane.addEventListener("keydown", (event) => {
      const step = Math.max(1, state.side / 8), { x, y } = state;
      const act = {
        ArrowLeft: () => move(x - step, y), ArrowRight: () => move(x + step, y),
        ArrowUp: () => move(x, y - step), ArrowDown: () => move(x, y + step),
        "+": () => zoom(1), "=": () => zoom(1), "-": () => zoom(-1), 0: () => at.window.click(),
      }[event.key];
      if (!act || event.ctrlKey || event.metaKey || event.altKey) return;
      event.preventDefault();
      act();
    });
  }

  function follow() {
    const asked = new URLSearchParams(location.hash.slice(1));
    const k = crops.findIndex((one) => one.key === asked.get("image"));
    choose(k < 0 ? Math.max(state.crop, 0) : k, asked.get("a") || state.a, asked.get("b") || state.b);
  }
  addEventListener("hashchange", follow);
  follow();
}

// Each answer of a strip: its pixels on a canvas, and their luma as it is scored (BT.601).
function decode(image, { answers, box: [, , width, height] }) {
  const canvas = (w, h) => Object.assign(document.createElement("canvas"), { width: w, height: h });
  const sheet = canvas(width, height * answers.length).getContext("2d", { willReadFrequently: true });
  sheet.drawImage(image, 0, 0);
  const layers = {};
  let before;
  answers.forEach((name, k) => {
    const part = sheet.getImageData(0, k * height, width, height), { data } = part;
    const luma = new Float64Array(width * height);
    for (let i = 0; i < data.length; i += 4) {
      if (before) for (let c = i; c < i + 3; c++) data[c] = (data[c] - 128 + before[c] + 256) % 256;
      luma[i / 4] = 16 + (65.481 * data[i] + 128.553 * data[i + 1] + 24.966 * data[i + 2]) / 255;
    }
    before = data;
    const own = canvas(width, height);
    own.getContext("2d").putImageData(part, 0, 0);
    layers[name] = { canvas: own, luma };
  });
  return layers;
}

function psnr(one, other, width, [x, y, w, h]) {
  let sum = 0;
  for (let j = y; j < y + h; j++)
    for (let i = x; i < x + w; i++) sum += (one[j * width + i] - other[j * width + i]) ** 2;
  return 10 * Math.log10(255 ** 2 / (sum / (w * h)));
}

// Mean squared error against HR of the square round each pixel, as far as it lies in the crop.
function around(luma, hr, width, height) {
  const sums = new Float64Array((width + 1) * (height + 1)), out = new Float64Array(width * height);
  const row = width + 1;
  for (let j = 0; j < height; j++)
    for (let i = 0; i < width; i++)
      sums[(j + 1) * row + i + 1] = sums[j * row + i + 1] + sums[(j + 1) * row + i] - sums[j * row + i]
        + (luma[j * width + i] - hr[j * width + i]) ** 2;
  for (let j = 0; j < height; j++)
    for (let i = 0; i < width; i++) {
      const [l, t] = [Math.max(i - REACH, 0), Math.max(j - REACH, 0)];
      const [r, b] = [Math.min(i + REACH + 1, width), Math.min(j + REACH + 1, height)];
      const sum = sums[b * row + r] - sums[t * row + r] - sums[b * row + l] + sums[t * row + l];
      out[j * width + i] = Math.max(sum / ((r - l) * (b - t)), FLOOR);
    }
  return out;
}

// Where A or B is nearer to HR, or how far they are apart: more colour is more of it, up to the
// value that one pixel in fifty exceeds.
function drawMap(layers, { box: [, , width, height] }, { a, b, kind }) {
  const [one, other, hr] = [layers[a].luma, layers[b].luma, layers.hr.luma];
  let values, least, unit, said;
  if (kind === "gain") {
    const [ea, eb] = [around(one, hr, width, height), around(other, hr, width, height)];
    values = ea.map((error, i) => 10 * Math.log10(error / eb[i]));
    [least, unit, said] = [0.5, "dB", "Where A or B is nearer to HR"];
  } else {
    values = one.map((value, i) => Math.abs(value - other[i]));
    [least, unit, said] = [2, "levels of luma", "Where A and B differ"];
  }
  const sizes = values.map(Math.abs).sort();
  const most = Math.max(least, sizes[Math.floor(0.98 * (sizes.length - 1))]);
  const canvas = Object.assign(document.createElement("canvas"), { width, height });
  const image = new ImageData(width, height);
  values.forEach((value, i) => {
    const colour = kind === "gain" ? (value < 0 ? COLOUR.a : COLOUR.b) : COLOUR.both;
    image.data.set([...colour, Math.round(255 * Math.min(Math.abs(value) / most, 1))], 4 * i);
  });
  canvas.getContext("2d").putImageData(image, 0, 0);
  const scale = `${most.toFixed(1)} ${unit}`;
  const key = kind === "gain"
    ? `<i class="ramp gain"></i> from A nearer to HR by ${scale} (blue) to B nearer by as much (orange): PSNR-Y of the 9 × 9 pixels round each, errors below one level counted as one.`
    : `<i class="ramp"></i> from 0 to ${scale}.`;
  return { canvas, said, key };
}

function signed(value) {
  if (Number.isNaN(value)) return "–";
  if (!Number.isFinite(value)) return value > 0 ? "+∞" : "−∞";
  const text = value.toFixed(2);
  return +text === 0 ? "0.00" : value > 0 ? `+${text}` : text.replace("-", "−");
}

// CPU by process over time: stacked areas on a canvas, with a stretch of time that can be selected.

import { cpus, element, moment, swatch } from "./words.js";

const MARGIN = { left: 46, right: 8, top: 10, bottom: 24 };
const COLOURS = ["#e8a33d", "#4f9dde", "#7cb65b", "#d9675a", "#9b7fd1", "#3fb5a5", "#d884b8", "#b3a13b", "#6f8fb8", "#c98552", "#5fae86", "#a0736e"];
// Pixels between press and release that are a click.
const CLICK = 4;

export class Chart {
  #colours = new Map();
  #drag = null;
  #hover = null;

  constructor(canvas, tip, onSelect) {
    Object.assign(this, { canvas, tip, onSelect, names: [], points: [], from: 0, to: 1, selected: null });
    canvas.addEventListener("pointerdown", (event) => this.#press(event));
    canvas.addEventListener("pointermove", (event) => this.#move(event));
    canvas.addEventListener("pointerup", (event) => this.#release(event));
    canvas.addEventListener("pointercancel", () => { this.#drag = null; this.draw(); });
    canvas.addEventListener("pointerleave", () => { this.#hover = null; this.tip.hide(); this.draw(); });
    canvas.addEventListener("keydown", (event) => this.#key(event));
    new ResizeObserver(() => this.draw()).observe(canvas);
  }

  /** Points: start and end in seconds, one share of CPUs per name, the others together. */
  show(names, points, from, to) {
    Object.assign(this, { names, points, from, to });
    const taken = new Set(names.map((name) => this.#colours.get(name)));
    for (const name of names.filter((name) => !this.#colours.has(name))) {
      const colour = COLOURS.find((colour) => !taken.has(colour)) ?? COLOURS[this.#colours.size % COLOURS.length];
      this.#colours.set(name, colour);
      taken.add(colour);
    }
    this.draw();
  }

  colour(name) {
    return this.#colours.get(name) ?? this.#style("--other");
  }

  select(range, isTold = true) {
    this.selected = range;
    this.draw();
    if (isTold) this.onSelect(range);
  }

  #style(name) {
    return getComputedStyle(this.canvas).getPropertyValue(name).trim();
  }

  #x(seconds) {
    return MARGIN.left + ((seconds - this.from) / (this.to - this.from)) * this.room;
  }

  #seconds(x) {
    return this.from + ((x - MARGIN.left) / this.room) * (this.to - this.from);
  }

  draw() {
    const { clientWidth: width, clientHeight: height } = this.canvas;
    const ratio = devicePixelRatio || 1;
    this.canvas.width = Math.round(width * ratio);
    this.canvas.height = Math.round(height * ratio);
    this.room = Math.max(1, width - MARGIN.left - MARGIN.right);
    const context = this.canvas.getContext("2d");
    context.scale(ratio, ratio);
    context.clearRect(0, 0, width, height);
    context.font = "11px system-ui, sans-serif";
    const bottom = height - MARGIN.bottom;
    const highest = Math.max(0.05, ...this.points.map((point) => point.total));
    const step = niceStep(highest / 4);
    const top = Math.ceil((highest * 1.04) / step) * step;
    const y = (share) => bottom - (share / top) * (bottom - MARGIN.top);
    this.#grid(context, width, bottom, step, top, y);
    context.save();
    context.beginPath();
    context.rect(MARGIN.left, 0, this.room, bottom);
    context.clip();
    this.#areas(context, y);
    context.restore();
    this.#marks(context, bottom);
  }

  #grid(context, width, bottom, step, top, y) {
    context.strokeStyle = this.#style("--grid");
    context.fillStyle = this.#style("--quiet");
    context.textAlign = "right";
    context.textBaseline = "middle";
    for (let share = 0; share <= top + step / 2; share += step) {
      const at = Math.round(y(share)) + 0.5;
      line(context, MARGIN.left, at, width - MARGIN.right, at);
      context.fillText(share === 0 ? "0" : top <= 1 ? `${+(share * 100).toFixed(1)} %` : `${+share.toFixed(2)}`, MARGIN.left - 6, at);
    }
    const span = this.to - this.from;
    const seconds = timeStep(span / Math.max(2, this.room / 110));
    const zone = new Date(this.from * 1000).getTimezoneOffset() * 60;
    context.textAlign = "center";
    context.textBaseline = "top";
    for (let at = Math.ceil((this.from - zone) / seconds) * seconds + zone; at < this.to; at += seconds) {
      const x = Math.round(this.#x(at)) + 0.5;
      line(context, x, bottom, x, bottom + 4);
      if (x > MARGIN.left + 20 && x < width - 30) context.fillText(moment(at, seconds < 60 ? 1 : Math.max(span, 7201)), x, bottom + 7);
    }
    if (top > 1 || this.points.length) {
      context.textAlign = "left";
      context.fillText(top <= 1 ? "of one CPU" : "CPUs", MARGIN.left + 4, 0);
    }
  }

  #areas(context, y) {
    // The one above is drawn over the sum of all below: from the top of the stack down.
    for (let layer = this.names.length; layer >= 0; layer -= 1) {
      context.fillStyle = layer === this.names.length ? this.#style("--other") : this.#colours.get(this.names[layer]);
      context.beginPath();
      for (const point of this.points) {
        const [left, right] = [this.#x(point.start), this.#x(point.end)];
        const share = point.sums[layer];
        if (share > 0) context.rect(left, y(share), Math.max(right - left, 0.5) + 0.35, y(0) - y(share));
      }
      context.fill();
    }
  }

  #marks(context, bottom) {
    const range = this.#drag ? ordered(this.#drag.from, this.#drag.to) : this.selected;
    if (range) {
      const [left, right] = [Math.max(this.#x(range[0]), MARGIN.left), Math.min(this.#x(range[1]), MARGIN.left + this.room)];
      if (right > left) {
        context.fillStyle = this.#style("--select");
        context.fillRect(left, MARGIN.top, right - left, bottom - MARGIN.top);
        context.strokeStyle = this.#style("--accent");
        line(context, left, MARGIN.top, left, bottom);
        line(context, right, MARGIN.top, right, bottom);
      }
    }
    if (this.#hover !== null) {
      context.strokeStyle = this.#style("--quiet");
      const x = Math.round(this.#hover) + 0.5;
      line(context, x, MARGIN.top, x, bottom);
    }
    if (document.activeElement === this.canvas && this.canvas.matches(":focus-visible")) return;
  }

  #at(event) {
    const box = this.canvas.getBoundingClientRect();
    return Math.min(Math.max(event.clientX - box.left, MARGIN.left), MARGIN.left + this.room);
  }

  #press(event) {
    if (event.button !== 0) return;
    this.canvas.setPointerCapture(event.pointerId);
    const x = this.#at(event);
    this.#drag = { x, from: this.#seconds(x), to: this.#seconds(x) };
  }

  #move(event) {
    const x = this.#at(event);
    this.#hover = x;
    if (this.#drag) this.#drag.to = this.#seconds(x);
    this.draw();
    const seconds = this.#seconds(x);
    const point = this.points.find((point) => seconds >= point.start && seconds < point.end);
    if (!point) return this.tip.hide();
    const rows = this.names.map((name, index) => [name, point.values[index], this.colour(name)]);
    rows.push(["others", point.other, this.#style("--other")]);
    rows.sort((a, b) => b[1] - a[1]);
    const shown = rows.filter(([, share]) => share > 0).slice(0, 9).map(([name, share, colour]) =>
      element("div", { className: "row" }, swatch(colour), element("span", { textContent: name }), element("span", { className: "value", textContent: cpus(share) })));
    const title = `${moment(point.start, 1)} – ${moment(point.end, 1)} · ${cpus(point.total)}${point.total < 0.995 ? " of one CPU" : " CPUs"}`;
    this.tip.show(event, element("div", { textContent: title }), ...shown);
  }

  #release(event) {
    const drag = this.#drag;
    this.#drag = null;
    if (!drag) return;
    const x = this.#at(event);
    if (Math.abs(x - drag.x) >= CLICK) return this.select(ordered(drag.from, this.#seconds(x)));
    const seconds = this.#seconds(x);
    const point = this.points.find((point) => seconds >= point.start && seconds < point.end);
    this.select(point ? [point.start, point.end] : null);
  }

  #key(event) {
    const last = this.points.at(-1);
    const range = this.selected ?? (last && [last.start, last.end]);
    if (event.key === "Escape") return this.select(null);
    const direction = { ArrowLeft: -1, ArrowRight: 1 }[event.key];
    if (!direction || !range) return;
    event.preventDefault();
    const by = this.selected ? (range[1] - range[0]) * direction : 0;
    this.select(event.shiftKey ? ordered(range[0], range[1] + by / 2) : [range[0] + by, range[1] + by]);
  }
}

/** Makes a point of what the daemon sent. */
export function point(start, end, recorded, values, other) {
  const share = (ns) => ns / Math.max(recorded, 1);
  const shares = values.map(share);
  let sum = 0;
  const sums = shares.map((value) => (sum += value));
  const others = share(other);
  return { start: start / 1e9, end: end / 1e9, values: shares, other: others, sums: [...sums, sum + others], total: sum + others };
}

function line(context, x, y, toX, toY) {
  context.beginPath();
  context.moveTo(x, y);
  context.lineTo(toX, toY);
  context.stroke();
}

const ordered = (a, b) => (a < b ? [a, b] : [b, a]);

function niceStep(least) {
  const power = 10 ** Math.floor(Math.log10(least));
  return [1, 2, 2.5, 5, 10].map((factor) => factor * power).find((step) => step >= least - 1e-12);
}

function timeStep(least) {
  const steps = [5, 10, 15, 30, 60, 120, 300, 600, 900, 1800, 3600, 7200, 10800, 21600, 43200, 86400];
  return steps.find((step) => step >= least) ?? 86400 * Math.ceil(least / 86400);
}

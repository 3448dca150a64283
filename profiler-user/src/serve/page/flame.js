// One flame graph on a canvas: roots on top, click or Enter to zoom, search, and a line that says what is under the pointer.

import { element, matcher, percent, swatch, value } from "./words.js";

const ROW = 19;
// Boxes narrower than this many pixels are not drawn, nor what is above them.
const NARROWEST = 0.4;
const INK = "#111111";

export class Flame {
  constructor(frame, room, canvas, tip, told) {
    Object.assign(this, { frame, room, canvas, tip, told });
    this.clear();
    frame.addEventListener("scroll", () => this.draw());
    new ResizeObserver(() => this.draw()).observe(frame);
    canvas.addEventListener("pointermove", (event) => this.#move(event));
    canvas.addEventListener("pointerleave", () => { this.hover = -1; this.tip.hide(); this.draw(); });
    canvas.addEventListener("click", (event) => { const box = this.#at(event); if (box >= 0) this.zoomTo(box); });
    frame.addEventListener("keydown", (event) => this.#key(event));
  }

  clear() {
    Object.assign(this, { tree: null, count: 0, zoom: -1, hover: -1, focus: -1, matched: null, depths: 1 });
    this.draw();
  }

  /** A tree as the daemon sends it. What was zoomed or searched stays so where it still is there. */
  show(tree) {
    const path = this.zoom >= 0 ? this.path(this.zoom).map((box) => this.name(box)) : null;
    const count = tree.nodes.length;
    const [x, end, parent] = [new Float64Array(count), new Uint32Array(count), new Int32Array(count)];
    const open = [];
    const next = [0];
    let depths = 1;
    tree.nodes.forEach(([depth, , total], index) => {
      while (open.length > depth) end[open.pop()] = index;
      parent[index] = open.at(-1) ?? -1;
      x[index] = next[depth];
      next[depth] += total;
      next[depth + 1] = x[index];
      open.push(index);
      depths = Math.max(depths, depth + 1);
    });
    for (const index of open) end[index] = count;
    Object.assign(this, { tree, count, x, end, parent, depths, hover: -1, focus: -1, zoom: -1 });
    if (path) this.zoom = this.#find(path);
    this.search(this.searched ?? "");
    this.#height();
    this.draw();
    this.told.zoomed(this.zoom >= 0);
    this.told.box(null);
  }

  name(box) {
    return this.tree.functions[this.tree.nodes[box][1]][0];
  }

  total(box) {
    return this.tree.nodes[box][2];
  }

  /** From the root to a box. */
  path(box) {
    const path = [];
    for (let at = box; at >= 0; at = this.parent[at]) path.unshift(at);
    return path;
  }

  #find(names) {
    let found = -1;
    for (const name of names) {
      let child = found < 0 ? 0 : found + 1;
      const last = found < 0 ? this.count : this.end[found];
      while (child < last && this.name(child) !== name) child = this.end[child];
      if (child >= last) return found;
      found = child;
    }
    return found;
  }

  zoomTo(box) {
    this.zoom = box;
    this.focus = box;
    this.hover = -1;
    this.#height();
    this.draw();
    this.told.zoomed(box >= 0);
    this.told.box(box >= 0 ? this.#words(box) : null);
  }

  /** Marks the functions whose name or module fits; says how much of the whole they are. */
  search(text) {
    this.searched = text;
    const fits = text && matcher(text, false);
    this.matched = null;
    if (this.tree && fits) {
      this.matched = this.tree.functions.map(([name, module]) => fits(name) || fits(module));
      let sum = 0;
      for (let box = 0; box < this.count; ) {
        const is = this.matched[this.tree.nodes[box][1]];
        if (is) sum += this.total(box);
        box = is ? this.end[box] : box + 1;
      }
      this.told.matched(percent(sum, this.tree.total));
    } else {
      this.told.matched(text && !fits ? "not a regular expression" : "");
    }
    this.draw();
  }

  #height() {
    let deepest = 0;
    const [first, last] = this.zoom >= 0 ? [this.zoom, this.end[this.zoom]] : [0, this.count];
    for (let box = first; box < last; box += 1) deepest = Math.max(deepest, this.tree.nodes[box][0] + 1);
    this.room.style.height = `${deepest * ROW + 2}px`;
  }

  #scale() {
    const width = Math.max(1, this.frame.clientWidth);
    const [start, span] = this.zoom >= 0 ? [this.x[this.zoom], this.total(this.zoom)] : [0, this.tree.total];
    return { width, start, per: width / Math.max(span, 1) };
  }

  /** Where a box is drawn: what the zoomed box hangs from takes the whole width. */
  #place(box, { width, start, per }) {
    if (this.zoom >= 0 && box < this.zoom && this.end[box] > this.zoom) return [0, width];
    const left = (this.x[box] - start) * per;
    return [Math.max(left, 0), Math.min(left + this.total(box) * per, width)];
  }

  #inView(box) {
    return this.zoom < 0 || (box >= this.zoom && box < this.end[this.zoom]) || (box < this.zoom && this.end[box] > this.zoom);
  }

  draw() {
    const { clientWidth: width, clientHeight: height, scrollTop } = this.frame;
    const ratio = devicePixelRatio || 1;
    this.canvas.style.height = `${height}px`;
    this.canvas.width = Math.round(width * ratio);
    this.canvas.height = Math.round(height * ratio);
    this.drawn = 0;
    if (!this.tree || !width) return;
    const context = this.canvas.getContext("2d");
    context.scale(ratio, ratio);
    context.font = "12px ui-monospace, SFMono-Regular, Menlo, Consolas, monospace";
    context.textBaseline = "middle";
    const style = getComputedStyle(this.frame);
    const look = { match: style.getPropertyValue("--match").trim(), focus: style.getPropertyValue("--focus").trim(), letter: context.measureText("m").width };
    const scale = this.#scale();
    for (let box = 0; box < this.count; ) {
      const [left, right] = this.#place(box, scale);
      if (!this.#inView(box) || right - left < NARROWEST) {
        box = this.end[box];
        continue;
      }
      const y = this.tree.nodes[box][0] * ROW - scrollTop;
      if (y > height) {
        box = this.end[box];
        continue;
      }
      if (y > -ROW) this.#box(context, box, left, right, y, look);
      box += 1;
    }
  }

  #box(context, box, left, right, y, look) {
    const [, index] = this.tree.nodes[box];
    const [name, , , colour] = this.tree.functions[index];
    const isMatched = this.matched?.[index];
    context.globalAlpha = box < this.zoom ? 0.55 : 1;
    context.fillStyle = isMatched ? look.match : colour;
    const width = Math.max(right - left - (right - left > 3 ? 0.7 : 0), 0.3);
    context.fillRect(left, y, width, ROW - 1);
    const letters = Math.floor((width - 7) / look.letter);
    if (letters >= 2) {
      context.fillStyle = INK;
      context.fillText(name.length <= letters ? name : `${name.slice(0, letters - 1)}…`, left + 4, y + ROW / 2);
    }
    context.globalAlpha = 1;
    if (box === this.hover || box === this.focus) {
      context.strokeStyle = box === this.focus ? look.focus : INK;
      context.lineWidth = box === this.focus ? 2 : 1;
      context.strokeRect(left + 0.5, y + 0.5, Math.max(width - 1, 1), ROW - 2);
    }
    this.drawn += 1;
  }

  #at(event) {
    if (!this.tree) return -1;
    const area = this.frame.getBoundingClientRect();
    const x = event.clientX - area.left;
    const depth = Math.floor((event.clientY - area.top - this.frame.clientTop + this.frame.scrollTop) / ROW);
    const scale = this.#scale();
    for (let box = 0; box < this.count; ) {
      const [left, right] = this.#place(box, scale);
      if (!this.#inView(box) || right - left < NARROWEST || x < left || x >= right) box = this.end[box];
      else if (this.tree.nodes[box][0] === depth) return box;
      else box += 1;
    }
    return -1;
  }

  #words(box) {
    const [, index, total, own] = this.tree.nodes[box];
    const [name, module, kind] = this.tree.functions[index];
    const what = [module, kind === "native" ? "" : kind].filter(Boolean).join(", ");
    const { total: all, value_type: type } = this.tree;
    const ofOwn = own > 0 ? ` · own ${value(own, type)}, ${percent(own, all)}` : "";
    return { name, text: `${what ? `${what} · ` : ""}${value(total, type)}, ${percent(total, all)}${ofOwn}` };
  }

  #move(event) {
    const box = this.#at(event);
    if (box !== this.hover) {
      this.hover = box;
      this.draw();
      this.told.box(box >= 0 ? this.#words(box) : null);
    }
    if (box < 0) return this.tip.hide();
    const words = this.#words(box);
    this.tip.show(event, element("strong", { textContent: words.name }), element("div", { textContent: words.text }));
  }

  #key(event) {
    if (!this.tree || !this.count) return;
    if (event.key === "/") { event.preventDefault(); return this.told.wantsSearch(); }
    if (event.key === "Escape") { this.focus = -1; return this.zoomTo(-1); }
    if (event.key === "Enter" && this.focus >= 0) return this.zoomTo(this.focus);
    const at = this.focus < 0 ? Math.max(this.zoom, 0) : this.focus;
    const to = this.focus < 0 ? at : { ArrowDown: () => this.#largest(at), ArrowUp: () => this.parent[at], ArrowLeft: () => this.#sibling(at, -1), ArrowRight: () => this.#sibling(at, 1) }[event.key]?.();
    if (!event.key.startsWith("Arrow")) return;
    event.preventDefault();
    if (to === undefined || to < 0 || !this.#inView(to)) return;
    this.focus = to;
    const y = this.tree.nodes[to][0] * ROW;
    if (y < this.frame.scrollTop) this.frame.scrollTop = y;
    if (y + ROW > this.frame.scrollTop + this.frame.clientHeight) this.frame.scrollTop = y + ROW - this.frame.clientHeight;
    this.draw();
    this.told.box(this.#words(to));
  }

  #largest(box) {
    let best = -1;
    for (let child = box + 1; child < this.end[box]; child = this.end[child]) {
      if (best < 0 || this.total(child) > this.total(best)) best = child;
    }
    return best;
  }

  #sibling(box, direction) {
    const parent = this.parent[box];
    const last = parent < 0 ? this.count : this.end[parent];
    if (direction > 0) return this.end[box] < last ? this.end[box] : -1;
    let before = -1;
    for (let child = parent + 1; child < box; child = this.end[child]) before = child;
    return before;
  }
}

/** What the colours stand for. */
export function kinds(list, legend) {
  list.replaceChildren(...legend.map(([name, colour]) => element("li", {}, swatch(colour), name)));
}

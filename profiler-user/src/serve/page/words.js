// Numbers and times as people read them.

export function duration(ns) {
  if (ns >= 3600e9) return `${(ns / 3600e9).toFixed(1)} h`;
  if (ns >= 120e9) return `${(ns / 60e9).toFixed(1)} min`;
  if (ns >= 1e9) return `${(ns / 1e9).toFixed(ns >= 100e9 ? 0 : 2)} s`;
  if (ns >= 1e6) return `${(ns / 1e6).toFixed(ns >= 100e6 ? 0 : 1)} ms`;
  return `${(ns / 1e3).toFixed(0)} µs`;
}

export function bytes(count) {
  const units = ["B", "KiB", "MiB", "GiB", "TiB"];
  let unit = 0;
  while (count >= 1023.95 && unit + 1 < units.length) { count /= 1024; unit += 1; }
  return `${unit && count < 9.95 ? count.toFixed(1) : Math.round(count)} ${units[unit]}`;
}

export function percent(part, whole) {
  const share = whole > 0 ? (part * 100) / whole : 0;
  return share > 0 && share < 0.05 ? "<0.1 %" : `${share.toFixed(1)} %`;
}

export function value(amount, type) {
  if (type?.unit === "nanoseconds") return duration(amount);
  if (type?.unit === "bytes") return bytes(amount);
  return `${Math.round(amount).toLocaleString("en").replaceAll(",", " ")} ${type?.kind ?? ""}`;
}

export function cpus(share) {
  if (share >= 0.995) return share.toFixed(2);
  return share > 0 && share < 0.001 ? "<0.1 %" : `${(share * 100).toFixed(1)} %`;
}

const two = (number) => String(number).padStart(2, "0");

/** Time of day in the reader's zone; with its day where `span` seconds go over several. */
export function moment(seconds, span) {
  const at = new Date(seconds * 1000);
  const time = `${two(at.getHours())}:${two(at.getMinutes())}${span <= 7200 ? `:${two(at.getSeconds())}` : ""}`;
  return span > 86400 ? `${two(at.getMonth() + 1)}-${two(at.getDate())} ${time}` : time;
}

/** What a search or a filter means: a name, or /regex/. Null where it means nothing. */
export function matcher(text, exact) {
  const inside = text.length > 2 && text.startsWith("/") && text.endsWith("/") ? text.slice(1, -1) : null;
  if (inside !== null) {
    try {
      const expression = new RegExp(inside);
      return (name) => expression.test(name);
    } catch {
      return null;
    }
  }
  const wanted = text.toLowerCase();
  return exact ? (name) => name === text : (name) => name.toLowerCase().includes(wanted);
}

/** An element with text: nothing that comes from a target ever becomes markup. */
export function element(tag, properties = {}, ...children) {
  const made = Object.assign(document.createElement(tag), properties);
  made.append(...children);
  return made;
}

export function swatch(colour) {
  const made = element("span", { className: "swatch" });
  made.style.background = colour;
  return made;
}

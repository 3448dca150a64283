// The daemon's answers.

export class Refused extends Error {}

function address(path, parameters) {
  const query = new URLSearchParams(Object.entries(parameters).filter(([, value]) => value !== "" && value !== undefined));
  return `${path}?${query}`;
}

/** Asks; throws with the daemon's own words. A new question of the same `kind` takes the place of one that is not answered yet. */
const open = new Map();
export async function get(kind, path, parameters) {
  open.get(kind)?.abort();
  const control = new AbortController();
  open.set(kind, control);
  let response;
  try {
    response = await fetch(address(path, parameters), { signal: control.signal });
  } catch (error) {
    if (error.name === "AbortError") throw error;
    throw new Refused("The daemon does not answer.");
  }
  if (response.status === 429 || response.status === 503) {
    const seconds = Number(response.headers.get("retry-after") ?? 2);
    const told = await response.json().catch(() => ({}));
    throw Object.assign(new Refused(told.error ?? "The daemon is busy."), { retryAfter: seconds });
  }
  if (!response.ok) {
    const told = await response.json().catch(() => ({}));
    const refused = new Refused([told.error ?? `The answer is ${response.status}.`, told.hint].filter(Boolean).join("\n"));
    throw Object.assign(refused, { isNothing: response.status === 404 });
  }
  return response.json();
}

export function link(format, parameters) {
  return address("/api/v1/flamegraph", { ...parameters, format });
}

/** Windows as they are closed; the browser connects again by itself. */
export function live(onWindow, onState) {
  const source = new EventSource("/api/v1/live");
  source.addEventListener("open", () => onState("on"));
  source.addEventListener("error", () => onState("off"));
  source.addEventListener("window", (event) => onWindow(JSON.parse(event.data)));
  return source;
}

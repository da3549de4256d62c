// Talking to the server. The key lives in this tab's sessionStorage and goes out only as a header.

const SLOT = "echosched.key";

let memory = null; // for browsers that forbid storage: the key lasts as long as the page

export function key() {
  try {
    return sessionStorage.getItem(SLOT) ?? memory;
  } catch {
    return memory;
  }
}

export function setKey(value) {
  memory = value;
  try {
    if (value === null) sessionStorage.removeItem(SLOT);
    else sessionStorage.setItem(SLOT, value);
  } catch {
    // Kept in memory only.
  }
}

/** What the server refused, or that it did not answer (code "offline"). */
export class ApiError extends Error {
  constructor(status, code, message, retryAfter = 0) {
    super(message);
    this.status = status;
    this.code = code;
    this.retryAfter = retryAfter;
  }
}

/** Called when the key is missing or wrong; set by the key dialog. */
export const hooks = { unauthorized: () => {} };

async function request(method, path, options = {}) {
  const used = options.key ?? key();
  if (!used) {
    hooks.unauthorized(null);
    throw new ApiError(401, "unauthorized", "a key is needed");
  }
  let response;
  try {
    response = await fetch(path, {
      method,
      headers: { "X-Dash-Key": used, ...(options.headers ?? {}) },
      body: options.body,
      signal: options.signal,
      cache: "no-store",
      credentials: "omit",
      redirect: "error",
    });
  } catch (error) {
    if (error.name === "AbortError") throw error;
    if (error instanceof TypeError && /ISO-8859|ByteString|Invalid/i.test(error.message)) throw new ApiError(401, "unauthorized", "this cannot be a key (it has characters that no key has)");
    throw new ApiError(0, "offline", "the web server does not answer");
  }
  if (response.ok) return response;
  let told = {};
  try {
    told = (await response.json()).error ?? {};
  } catch {
    // A proxy answered, not our server.
  }
  const failure = new ApiError(response.status, told.code ?? "error", told.message ?? `HTTP status ${response.status}`, Number(response.headers.get("Retry-After") ?? 0));
  if (response.status === 401 && !options.key) hooks.unauthorized(failure);
  throw failure;
}

/** GET a JSON document. */
export async function get(path, options) {
  return (await request("GET", path, options)).json();
}

/** POST; answers the document, with the HTTP status as httpStatus. */
export async function post(path, body) {
  const options = body === undefined ? {} : { body: JSON.stringify(body), headers: { "Content-Type": "application/json" } };
  const response = await request("POST", path, options);
  return { ...(await response.json()), httpStatus: response.status };
}

/** Try *value* as the key; true if it is the one, else throws what the server said. */
export async function tryKey(value) {
  await request("GET", "api/automations/status", { key: value });
  return true;
}

export const path = (...parts) => parts.map((part) => encodeURIComponent(part)).join("/");

export function query(values) {
  const pairs = Object.entries(values).filter(([, value]) => value !== undefined && value !== null && value !== "");
  return pairs.length ? "?" + new URLSearchParams(pairs) : "";
}

/**
 * Follow the event stream until *signal* aborts; reconnects by itself, behind the last event seen.
 * Calls on.event(event, id), on.status(status), on.reset(), on.state("live" | "connecting" | "off").
 */
export async function follow(on, signal, after = null) {
  let last = after;
  let failures = 0;
  while (!signal.aborted) {
    on.state("connecting");
    try {
      const response = await request("GET", "api/events" + query({ after: last }), { signal });
      on.state("live");
      for await (const message of messages(response.body, signal)) {
        failures = 0;
        const data = JSON.parse(message.data);
        if (message.event === "status") on.status(data);
        else if (message.event === "reset") on.reset();
        else {
          if (message.id) last = message.id;
          on.event(data, message.id);
        }
      }
    } catch (error) {
      if (signal.aborted) break;
      if (error.status === 401) break; // the key dialog is open; logging in starts anew
    }
    failures += 1;
    on.state("connecting");
    await new Promise((resolve) => setTimeout(resolve, Math.min(500 * failures, 5000)));
  }
  on.state("off");
}

// A sign of life comes every 10 s: silence for longer is a dead connection that nobody closed.
const SILENCE_MS = 25_000;

async function* messages(body, signal) {
  const reader = body.pipeThrough(new TextDecoderStream()).getReader();
  const leave = () => reader.cancel().catch(() => {});
  signal.addEventListener("abort", leave, { once: true });
  let rest = "";
  try {
    for (;;) {
      let timer;
      const silence = new Promise((_, reject) => { timer = setTimeout(() => reject(new Error("silence")), SILENCE_MS); });
      const { value, done } = await Promise.race([reader.read(), silence]).finally(() => clearTimeout(timer));
      if (done) return;
      const parts = (rest + value).split("\n\n");
      rest = parts.pop();
      for (const part of parts) {
        const message = { event: "journal", id: null, data: null };
        for (const line of part.split("\n")) {
          const at = line.indexOf(": ");
          if (at > 0) message[line.slice(0, at)] = line.slice(at + 2);
        }
        if (message.data !== null) yield message;
      }
    }
  } finally {
    signal.removeEventListener("abort", leave);
    leave();
  }
}

/** What the browser keeps: the key, the user's name and drafts. Where storage is blocked, memory takes its place until reload. */

const PREFIX = "turnkeeper.";
const memory = new Map();

function attempt(storage, action, fallback) {
  try {
    return action(storage());
  } catch (error) {
    // SecurityError: storage is blocked. QuotaExceededError: it is full.
    if (error instanceof DOMException) return fallback();
    throw error;
  }
}

function read(storage, name) {
  return attempt(storage, (area) => area.getItem(PREFIX + name), () => null) ?? memory.get(name) ?? null;
}

function write(storage, name, value) {
  attempt(storage, (area) => area.setItem(PREFIX + name, value), () => memory.set(name, value));
}

function drop(storage, name) {
  memory.delete(name);
  attempt(storage, (area) => area.removeItem(PREFIX + name), () => undefined);
}

const tab = () => window.sessionStorage;
const device = () => window.localStorage;

/** The API key, kept for this tab, or on this device when the user asked for that. */
export const credentials = {
  load: () => read(tab, "key") ?? read(device, "key"),
  save(key, remember) {
    this.forget();
    write(remember ? device : tab, "key", key);
  },
  forget() {
    for (const area of [tab, device]) {
      drop(area, "key");
      drop(area, "user");
    }
  },
  /** The user that sessions are made for, where the key belongs to a service and names any user. */
  user: () => read(tab, "user"),
  saveUser: (user) => write(tab, "user", user),
};

/**
 * What was typed and not yet accepted, by session ("new" before there is one), with the idempotency key of its
 * first try: sending it twice makes one turn. `isSending` outlives a page that was left before the answer came.
 */
export const drafts = {
  load(place) {
    const stored = read(tab, `draft.${place}`);
    return stored === null ? { content: "", key: null, isSending: false } : JSON.parse(stored);
  },
  save(place, content, key = null, isSending = false) {
    if (content === "") drop(tab, `draft.${place}`);
    else write(tab, `draft.${place}`, JSON.stringify({ content, key, isSending }));
  },
};

/** A random key; `crypto.randomUUID` is missing over plain http, `getRandomValues` is not. */
export function randomKey() {
  const bytes = crypto.getRandomValues(new Uint8Array(16));
  return Array.from(bytes, (byte) => byte.toString(16).padStart(2, "0")).join("");
}

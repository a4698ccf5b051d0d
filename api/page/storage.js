/** What the browser keeps: the key, the user's name, drafts and messages on their way. Where storage is blocked, memory takes its place until reload. */

const PREFIX = "turnkeeper.";
const MOST_DRAFTS = 50; // the oldest go: 32,000 characters each, of the 5 MB that a browser gives
const KEY_LIVES_MS = 23 * 3_600_000; // the service forgets an idempotency key after 24 hours
/** The reader decides whether it goes out once more: the service would no longer know it again. */
const TOO_OLD = "It is a day old, and may have arrived then.";
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
  // What found no room is newer than what lies there.
  return memory.get(name) ?? attempt(storage, (area) => area.getItem(PREFIX + name), () => null);
}

function write(storage, name, value) {
  memory.delete(name);
  attempt(storage, (area) => area.setItem(PREFIX + name, value), () => memory.set(name, value));
}

function drop(storage, name) {
  memory.delete(name);
  attempt(storage, (area) => area.removeItem(PREFIX + name), () => undefined);
}

/** The names that begin with `kind`, without the prefix. */
function names(storage, kind) {
  const stored = attempt(storage, (area) => Object.keys(area), () => []);
  const kept = stored.filter((name) => name.startsWith(PREFIX)).map((name) => name.slice(PREFIX.length));
  return [...new Set([...kept, ...memory.keys()])].filter((name) => name.startsWith(kind));
}

/** Parse what was kept; null where it was not written by this version. */
function parsed(text) {
  try {
    return JSON.parse(text);
  } catch {
    return null;
  }
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

/** What was typed and not yet sent, by session ("new" before there is one), on this device. */
export const drafts = {
  load(place) {
    return parsed(read(device, `draft.${place}`))?.content ?? "";
  },
  save(place, content, now = Date.now()) {
    if (content === "") {
      drop(device, `draft.${place}`);
      return;
    }
    const isNew = read(device, `draft.${place}`) === null;
    write(device, `draft.${place}`, JSON.stringify({ content, at: now }));
    if (isNew) this.bound();
  },
  bound() {
    const ages = names(device, "draft.").map((name) => [parsed(read(device, name))?.at ?? 0, name]);
    ages.sort(([a], [b]) => b - a);
    for (const [, name] of ages.slice(MOST_DRAFTS)) drop(device, name);
  },
};

/**
 * Messages that were sent and not yet accepted, by session: `{key, content, replaces, at, isFailed, why}`. Sending one twice with
 * its key makes one turn, also by another tab and after a reload.
 */
export const outbox = {
  load(place, now = Date.now()) {
    const kept = parsed(read(device, `outbox.${place}`)) ?? [];
    return kept.map((message) => {
      const isOld = !message.isFailed && now - message.at > KEY_LIVES_MS;
      return isOld ? { ...message, isFailed: true, why: TOO_OLD } : message;
    });
  },
  add(place, content, replaces = null) {
    const message = { key: randomKey(), content, replaces, at: Date.now(), isFailed: false, why: null };
    this.change(place, (kept) => [...kept, message]);
  },
  /** Note that sending failed, and `why`. */
  fail(place, key, why) {
    this.change(place, (kept) => kept.map((message) => (message.key === key ? { ...message, isFailed: true, why } : message)));
  },
  /** Let a message go out once more. One that is older than its key is as good as new: the reader has decided. */
  again(place, key, now = Date.now()) {
    const renewed = ({ at, ...message }) => ({ ...message, at: now - at > KEY_LIVES_MS ? now : at, isFailed: false, why: null });
    this.change(place, (kept) => kept.map((message) => (message.key === key ? renewed(message) : message)));
  },
  remove(place, key) {
    this.change(place, (kept) => kept.filter((message) => message.key !== key));
  },
  /** Change what is kept now, not what was read a while ago: another tab may have added to it. */
  change(place, how) {
    const messages = how(this.load(place));
    if (messages.length === 0) drop(device, `outbox.${place}`);
    else write(device, `outbox.${place}`, JSON.stringify(messages));
  },
  /** Call `redraw` when another tab has changed what is kept, until `signal` says to end. */
  watch(place, redraw, signal) {
    const name = `${PREFIX}outbox.${place}`;
    window.addEventListener("storage", ({ key }) => (key === name || key === null) && redraw(), { signal });
  },
};

/** Leave nothing that was written here behind: the reader signs out of this device. */
export function forgetWritten() {
  for (const name of [...names(device, "draft."), ...names(device, "outbox.")]) drop(device, name);
}

/** A random key; `crypto.randomUUID` is missing over plain http, `getRandomValues` is not. */
export function randomKey() {
  const bytes = crypto.getRandomValues(new Uint8Array(16));
  return Array.from(bytes, (byte) => byte.toString(16).padStart(2, "0")).join("");
}

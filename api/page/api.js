/** The HTTP API as functions. Every failure is a Problem: what the service said, or that it could not be reached. */

const TIMEOUT_MS = 20_000; // longer than any answer of the API takes; a hanging proxy must not hang the page
const PAGE = 100; // the API's largest page
const MAX_PAGES = 50; // 5,000 rows of one session: beyond it a page in a browser is the wrong tool
const TRIES = 4; // about 4 s of retrying before the user is asked

/** A refusal or failure in words (RFC 9457), with what a program needs to act on it. */
export class Problem extends Error {
  constructor(body, status) {
    super(body.title ?? `The service answered ${status}`);
    this.name = "Problem";
    this.status = status;
    this.code = body.code ?? "unknown";
    this.title = body.title ?? this.message;
    this.detail = body.detail ?? "";
    this.errors = body.errors ?? [];
    this.requestId = body.request_id ?? null;
    this.retryAfterMs = body.retry_after_ms ?? null;
    this.body = body;
  }

  /** True where the first try may have arrived or a second may succeed by itself. */
  get isWorthRetrying() {
    return this.code === "network" || this.code === "idempotency_in_progress" || [502, 503, 504].includes(this.status);
  }
}

const unreachable = () =>
  new Problem({ code: "network", title: "Turnkeeper cannot be reached", detail: "Check the connection and try again." }, 0);

async function readBody(response) {
  const type = response.headers.get("Content-Type") ?? "";
  if (!/^application\/(problem\+)?json\b/.test(type)) return {};
  try {
    return await response.json();
  } catch (error) {
    if (error instanceof SyntaxError) return {}; // a proxy in between cut or replaced the body
    throw unreachable();
  }
}

const pause = (ms) => new Promise((resolve) => setTimeout(resolve, ms));

/**
 * Bind the API to a key.
 * @param {string} key sent in the Authorization header and nowhere else
 * @param {() => void} onUnauthorized called when the service no longer knows the key
 */
export function connect(key, onUnauthorized = () => undefined) {
  async function call(method, path, { body, headers = {} } = {}) {
    const init = {
      method,
      headers: { Accept: "application/json", Authorization: `Bearer ${key}`, ...headers },
      cache: "no-store",
      credentials: "omit",
      redirect: "error",
      signal: AbortSignal.timeout(TIMEOUT_MS),
    };
    if (body !== undefined) {
      init.headers["Content-Type"] = "application/json";
      init.body = JSON.stringify(body);
    }
    const response = await fetch(path, init).catch(() => {
      throw unreachable();
    });
    const answer = response.status === 204 ? null : await readBody(response);
    if (response.ok) return answer;
    if (response.status === 401) onUnauthorized();
    throw new Problem(answer, response.status);
  }

  async function all(path) {
    const rows = [];
    let cursor = null;
    for (let page = 0; page < MAX_PAGES; page += 1) {
      const query = cursor === null ? "" : `&cursor=${encodeURIComponent(cursor)}`;
      const { data, next_cursor: next } = await call("GET", `${path}?limit=${PAGE}${query}`);
      rows.push(...data);
      if (next === null || next === undefined) break;
      cursor = next;
    }
    return rows;
  }

  async function persist(action) {
    for (let attempt = 1; ; attempt += 1) {
      try {
        return await action();
      } catch (problem) {
        if (!(problem instanceof Problem) || !problem.isWorthRetrying || attempt === TRIES) throw problem;
        await pause(Math.min(problem.retryAfterMs ?? 300 * 2 ** attempt, 3_000));
      }
    }
  }

  const session = (id) => `/v1/sessions/${encodeURIComponent(id)}`;
  const turn = (id) => `/v1/turns/${encodeURIComponent(id)}`;

  return {
    sessions(cursor = null, limit = 20) {
      const query = cursor === null ? "" : `&cursor=${encodeURIComponent(cursor)}`;
      return call("GET", `/v1/sessions?limit=${limit}${query}`);
    },
    searchSessions: (words) => call("GET", `/v1/sessions/search?limit=20&q=${encodeURIComponent(words)}`),
    session: (id) => call("GET", session(id)),
    createSession: (fields) => call("POST", "/v1/sessions", { body: fields }),
    closeSession: (id) => call("DELETE", session(id)),
    messages: (id) => all(`${session(id)}/messages`),
    turns: (id) => all(`${session(id)}/turns`),
    turn: (id) => call("GET", turn(id)),
    /** Post a turn; tried again with the same key, which cannot make a second one. */
    postTurn: (id, content, key) =>
      persist(() => call("POST", `${session(id)}/turns`, { body: { content }, headers: { "Idempotency-Key": key } })),
    /** Ask a turn to stop: idempotent, so it is tried again. */
    stopTurn: (id) => persist(() => call("POST", `${turn(id)}/stop`, { body: {} })),
    async ticket(id) {
      const { ticket } = await call("POST", "/v1/tickets", { body: { session_id: id, ttl_seconds: 60 } });
      return ticket;
    },
  };
}

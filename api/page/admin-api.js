/** What administrators ask of the HTTP API. Every failure is a Problem, as in the chat. */

import { Problem } from "./api.js";

export { Problem };

const TIMEOUT_MS = 20_000; // longer than any answer takes
const DOWNLOAD_MS = 600_000; // the service gives a table up after as long
const PAGE = 100;
const MAX_DAYS = 366; // the most that the service adds up

const unreachable = () =>
  new Problem({ code: "network", title: "Turnkeeper cannot be reached", detail: "Check the connection and try again." }, 0);

async function problemOf(response) {
  const isJson = /^application\/(problem\+)?json\b/.test(response.headers.get("Content-Type") ?? "");
  const body = isJson ? await response.json().catch(() => ({})) : {};
  return new Problem(body, response.status);
}

/** A query string of what is given: null and "" are left out. */
export function query(parameters) {
  const given = Object.entries(parameters).filter(([, value]) => value !== null && value !== undefined && value !== "");
  return given.length === 0 ? "" : `?${new URLSearchParams(given)}`;
}

/**
 * Bind the administrators' calls to a key.
 * @param {string} key sent in the Authorization header and nowhere else
 * @param {() => void} onUnauthorized called when the service no longer knows the key
 */
export function administration(key, onUnauthorized) {
  async function send(path, { method = "GET", body, accept = "application/json", timeout = TIMEOUT_MS } = {}) {
    const headers = { Accept: accept, Authorization: `Bearer ${key}` };
    if (body !== undefined) headers["Content-Type"] = "application/json";
    const response = await fetch(path, {
      method,
      headers,
      body: body === undefined ? undefined : JSON.stringify(body),
      cache: "no-store",
      credentials: "omit",
      redirect: "error",
      signal: AbortSignal.timeout(timeout),
    }).catch(() => {
      throw unreachable();
    });
    if (response.ok) return response;
    if (response.status === 401) onUnauthorized();
    throw await problemOf(response);
  }

  async function call(path, options) {
    const response = await send(path, options);
    return response.json().catch(() => {
      throw unreachable(); // cut off, or replaced by a proxy in between
    });
  }

  const id = encodeURIComponent;

  return {
    budget: () => call("/v1/budget"),
    changeBudget: (body) => call("/v1/budget", { method: "PUT", body }),
    /** End everything that the organization has queued and running. */
    stopOrganization: () => call("/v1/organization/stop", { method: "POST", body: {} }),
    /** All days of a range, oldest first, with the totals. */
    async usageByDay(range) {
      const data = [];
      let report = null;
      do {
        report = await call(`/v1/usage${query({ ...range, group_by: "day", limit: PAGE, cursor: report?.next_cursor })}`);
        data.push(...report.data);
      } while (report.next_cursor !== null && data.length < MAX_DAYS);
      return { data: data.reverse(), totals: report.totals };
    },
    /** The most expensive users or models. */
    usageBy: (group, range, limit) => call(`/v1/usage${query({ ...range, group_by: group, sort: "cost", limit })}`),
    refusals: (range) => call(`/v1/refusals${query({ ...range, limit: PAGE })}`),
    ledger: (filters, cursor, limit = 25) => call(`/v1/ledger${query({ ...filters, cursor, limit })}`),
    /** The ledger as a table for a file. */
    async ledgerTable(filters) {
      const response = await send(`/v1/ledger${query(filters)}`, { accept: "text/csv", timeout: DOWNLOAD_MS });
      return response.blob().catch(() => {
        throw unreachable(); // it broke off: half a table is none
      });
    },
    summary: () => call("/v1/operations/summary"),
    delays: () => call("/v1/operations/delays"),
    turns: (filters, limit) => call(`/v1/operations/turns${query({ ...filters, limit })}`),
    turn: (turnId) => call(`/v1/operations/turns/${id(turnId)}`),
    workers: () => call("/v1/operations/workers"),
    flagged: (limit) => call(`/v1/operations/flagged${query({ limit })}`),
    unflag: (sessionId) => call(`/v1/sessions/${id(sessionId)}/flag`, { method: "DELETE" }),
  };
}

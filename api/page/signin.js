/** Asks for an API key and tries it before anything else is shown. */

import { Problem, connect } from "./api.js";
import { el } from "./dom.js";
import { credentials } from "./storage.js";
import { explain } from "./words.js";

/**
 * The sign-in form.
 * @param {{onSignedIn: (key: string) => void, reason?: string}} options `reason` says why the form is shown again
 */
export function signInView({ onSignedIn, reason = "" }) {
  document.title = "Sign in · Turnkeeper";
  const key = el("input", {
    id: "key",
    type: "password",
    autocomplete: "off",
    autocapitalize: "off",
    spellcheck: "false",
    required: true,
    "aria-describedby": "key-error",
  });
  const remember = el("input", { id: "remember", type: "checkbox" });
  const error = el("p", { id: "key-error", class: "error", role: "alert" }, reason);
  const submit = el("button", { type: "submit", class: "primary" }, "Sign in");

  async function tryKey(event) {
    event.preventDefault();
    const value = key.value.trim();
    submit.disabled = true;
    error.textContent = "";
    try {
      await connect(value).sessions(null, 1);
      credentials.save(value, remember.checked);
      onSignedIn(value);
    } catch (problem) {
      if (!(problem instanceof Problem)) throw problem;
      error.textContent = problem.status === 401 ? "This key is not known, or no longer valid." : inWords(problem);
      key.select();
    } finally {
      submit.disabled = false;
    }
  }

  const node = el(
    "main",
    { class: "signin" },
    el(
      "form",
      { on: { submit: tryKey } },
      el("img", { src: "/page/icon.svg", alt: "", width: "48", height: "48" }),
      el("h1", {}, "Turnkeeper"),
      el("label", { for: "key" }, "API key"),
      key,
      el("label", { class: "check", for: "remember" }, remember, "Remember on this device"),
      submit,
      error,
      el("p", { class: "note" }, "The key is sent to this server only, and forgotten with this tab unless you have it remembered."),
    ),
  );
  return { node, open: () => key.focus(), close: () => undefined };
}

function inWords(problem) {
  const { title, detail } = explain(problem);
  return `${title} ${detail}`.trim();
}

/** What can be done with the open session: rename, flag, close. */

import { Problem } from "./api.js";
import { announce } from "./dom.js";
import { menu } from "./menu.js";

const CLOSING = "It stays readable. An answer that is being written is stopped.";
const FLAGGING = "Whoever administers your organization sees it among the flagged sessions. Why? (May be left empty.)";

/**
 * @param {object} app what the page offers its views
 * @param {{session: () => object, changed: (session?: object) => Promise<void>, failed: (problem: Problem) => void}} owner
 *   `changed` gets the session as the service answered it, or nothing where it must be read again
 */
export function sessionMenu(app, owner) {
  const attempt = (action) => async () => {
    try {
      await action(owner.session());
    } catch (problem) {
      if (!(problem instanceof Problem)) throw problem;
      owner.failed(problem);
    }
  };

  const rename = attempt(async ({ id, title }) => {
    const name = await app.ask("Rename this session", "It is found by its name.", "Name", title ?? "", "Rename");
    if (name === null || name === title) return;
    await owner.changed(await app.api.changeSession(id, { title: name }));
    announce("Renamed");
  });

  const flag = attempt(async ({ id }) => {
    const reason = await app.ask("Flag this session?", FLAGGING, "Reason", "", "Flag", { isOptional: true });
    if (reason === null) return;
    await owner.changed(await app.api.flagSession(id, reason));
    announce("Flagged");
  });

  const unflag = attempt(async ({ id }) => {
    await owner.changed(await app.api.unflagSession(id));
    announce("No longer flagged");
  });

  const close = attempt(async ({ id }) => {
    if (!(await app.confirm("Close this session?", CLOSING, "Close session"))) return;
    await app.api.closeSession(id);
    await owner.changed();
    announce("Closed");
  });

  const actions = () => {
    const { flagged, status } = owner.session();
    return [
      { name: "Rename", icon: "edit", run: rename },
      flagged ? { name: "Unflag", icon: "flag", run: unflag } : { name: "Flag", icon: "flag", run: flag },
      ...(status === "active" ? [{ name: "Close session", icon: "archive", run: close }] : []),
    ];
  };
  return menu("This session", "more", actions, { class: "session-menu" });
}

// Before anything is drawn, and therefore no module: a dark room must not be lit by a white page.
try {
  const theme = localStorage.getItem("turnkeeper.theme");
  if (theme === "light" || theme === "dark") document.documentElement.dataset.theme = theme;
} catch {
  // Storage is blocked: the system's own choice holds.
}

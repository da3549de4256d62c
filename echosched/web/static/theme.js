// Runs before the first paint (not a module, so not deferred): a dark page must not flash white.
(() => {
  try {
    const theme = localStorage.getItem("echosched.theme");
    if (theme === "dark" || theme === "light") document.documentElement.dataset.theme = theme;
  } catch {
    // Storage is forbidden here: the system's setting rules.
  }
})();

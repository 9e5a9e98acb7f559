// What pages do by themselves; without scripts they work as well.
(() => {
  "use strict";

  // "Show password", on pages with a password.
  for (const button of document.querySelectorAll("button[data-shows]")) {
    const field = document.getElementById(button.dataset.shows);
    const show = isShown => {
      field.type = isShown ? "text" : "password";
      button.textContent = isShown ? button.dataset.hide : button.dataset.show;
    };
    button.hidden = false;
    button.addEventListener("click", () => {
      show(field.type === "password");
      field.focus();
    });
    field.form.addEventListener("submit", () => show(false)); // browsers keep what was typed into a text field
  }

  // In place of a server that does not run: go on when something else answers.
  const pause = Number(document.body.dataset.looksAgain);
  if (pause) {
    setInterval(async () => {
      const how = { method: "HEAD", cache: "no-store", redirect: "manual" };
      const answer = await fetch(location.href, how).catch(() => null);
      if (answer && answer.status !== 503) {
        location.replace(location.href);
      }
    }, pause * 1000);
  }

  // How long it is until a deadline, by the clock of the server: a visitor's own may be wrong.
  const opened = performance.now();
  const count = element => {
    const { seconds, days, hours, minutes, moment, none } = element.dataset;
    const left = Number(seconds) - (performance.now() - opened) / 1000;
    const whole = Math.max(0, Math.floor(left / 60));
    const values = { days: Math.floor(whole / 1440), hours: Math.floor(whole / 60) % 24, minutes: whole % 60 };
    const text = left <= 0 ? none : whole < 1 ? moment : whole < 60 ? minutes : whole < 1440 ? hours : days;
    element.textContent = text.replace(/\{([a-z]+)\}/g, (place, name) => values[name] ?? place);
  };
  const all = document.querySelectorAll("[data-seconds]");
  if (all.length) {
    setInterval(() => all.forEach(count), 1000);
  }
})();

// The key dialog: asks for the key, tries it, keeps it for this tab.

import { hooks, setKey, tryKey } from "./api.js";
import { h } from "./dom.js";

let dialog = null;
let done = () => {};

/** Call *then* whenever a right key has been given. */
export function onKey(then) {
  done = then;
  hooks.unauthorized = ask;
}

/** Ask for the key; *failure* is what the server said about the last one. */
export function ask(failure) {
  if (dialog?.open) return;
  const input = h("input", { id: "key", name: "key", type: "password", autocomplete: "off", spellcheck: "false", required: true, "aria-describedby": "key-help" });
  const error = h("p", { class: "told bad", role: "alert", hidden: !failure, id: "key-error" }, failure?.message ?? "");
  const button = h("button", { type: "submit", class: "main" }, "Open the dashboard");
  const fail = (text) => {
    error.textContent = text;
    error.hidden = false;
    input.select();
  };
  const submit = async (event) => {
    event.preventDefault();
    if (!input.value.trim() || button.disabled) return;
    button.disabled = true;
    try {
      await tryKey(input.value.trim());
      setKey(input.value.trim());
      dialog.close();
      done();
    } catch (caught) {
      fail(caught.status === 401 ? "That is not the key." : caught.message);
    } finally {
      button.disabled = false;
    }
  };
  dialog?.remove();
  dialog = h("dialog", { class: "keydialog", "aria-labelledby": "key-title" },
    h("form", { method: "dialog", onsubmit: submit },
      h("h1", { id: "key-title" }, "EchoSched"),
      h("label", { for: "key" }, "Dashboard key"), input, error,
      h("p", { class: "dim", id: "key-help" }, "It was named on the terminal when the web server was first started, and is kept in the file ", h("code", {}, "web.key"), " beside the database, unless ", h("code", {}, "DASHBOARD_KEY"), " sets it. This tab remembers it until it is closed."),
      button));
  // There is nothing behind it to go back to.
  dialog.addEventListener("cancel", (event) => event.preventDefault());
  document.body.append(dialog);
  dialog.showModal();
  input.focus();
}

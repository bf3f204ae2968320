// The bar above every view: where one is, whether changes arrive, and as whom one looks.

import { fill, h, setAttribute } from "./element.js";
import { linkTo } from "./parts.js";

const LIVE = {
  off: { text: "Live is off", title: "No changes arrive." },
  connecting: { text: "Connecting", title: "Changes will arrive as soon as the server answers." },
  live: { text: "Live", title: "Changes arrive as they happen. Click to pause." },
  lost: { text: "Connection lost", title: "The page tries again by itself. Click to try at once." },
  paused: { text: "Paused", title: "No changes arrive. Click to go on." },
  hidden: { text: "Paused", title: "This tab is not seen." },
  ended: { text: "Ended", title: "This run has ended: nothing more changes." },
};

export class Bar {
  #element = document.getElementById("bar");
  #live;
  #app;

  constructor(app) {
    this.#app = app;
    this.#live = h("button", { type: "button", class: "live", id: "live", onclick: () => this.#toggle() });
    this.#says = h("span", { class: "unseen", role: "status" });
    app.live.onChange((state) => this.#showLive(state));
  }

  #says;

  // Show the bar for a place.
  show(place) {
    const { session } = this.#app;
    const brand = h(
      "span",
      { class: "brand" },
      h("img", { src: "page/icon.svg", alt: "", width: 22, height: 22 }),
      "Playbook runs",
    );
    if (!session.isUsable || !place.project) {
      fill(this.#element, brand, h("span", { class: "space" }), session.isUsable ? this.#account(place) : null);
      return;
    }
    const { project, view } = place;
    const tab = (name, label, isHere) =>
      linkTo({ project, view: name }, { "aria-current": isHere ? "page" : null }, label);
    fill(
      this.#element,
      brand,
      h(
        "nav",
        { "aria-label": "Views" },
        tab("runs", "Runs", view !== "playbooks"),
        tab("playbooks", "Playbooks", view === "playbooks"),
      ),
      h("span", { class: "space" }),
      this.#live,
      this.#says,
      this.#account(place),
    );
    this.#showLive(this.#app.live.state);
  }

  #account(place) {
    const { session } = this.#app;
    const role = place.project ? session.roleIn(place.project) : "";
    return h(
      "div",
      { class: "account" },
      place.project ? this.#projects(place) : null,
      role
        ? h(
            "span",
            { class: "role", title: "What your token allows in this project" },
            session.isAnonymous ? "No token" : role,
          )
        : null,
      h(
        "button",
        { type: "button", class: "plain", onclick: () => session.forget() },
        session.isAnonymous ? "Use a token" : "Sign out",
      ),
    );
  }

  #projects(place) {
    const { named, every } = this.#app.session.projects;
    const other = "\u0000"; // no project has this name
    const known = [...new Set([place.project, ...named])].sort();
    if (known.length === 1 && !every) return h("span", { class: "project" }, place.project);
    const options = known.map((one) => h("option", { value: one, selected: one === place.project }, one));
    if (every) options.push(h("option", { value: other }, "Another project…"));
    const onchange = ({ target: { value } }) => {
      if (value === other) this.#app.chooseProject();
      else this.#app.go({ project: value, view: place.view === "run" ? "runs" : place.view });
    };
    return h(
      "label",
      { class: "project" },
      h("span", { class: "unseen" }, "Project"),
      h("select", { onchange }, options),
    );
  }

  #toggle() {
    const { live } = this.#app;
    if (live.state === "live" || live.state === "connecting") live.pause();
    else live.resume();
  }

  #showLive(state) {
    const { text, title } = LIVE[state];
    this.#live.textContent = text;
    this.#live.title = title;
    this.#live.dataset.state = state;
    setAttribute(this.#live, "disabled", state === "off" || state === "ended");
    if (this.#says.textContent !== text) this.#says.textContent = state === "connecting" ? "" : text;
  }
}

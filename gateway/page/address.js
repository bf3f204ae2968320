// The page's address: which project, which view, which filters. It can be sent to somebody; the token is never in it.

export const FILTERS = ["playbook", "type", "status", "scope"];
const ORDER = ["project", "view", "run", ...FILTERS];

// Return what the address says: `project`, `view` (runs, run, playbooks), `run`, and the filters; "" where it does not.
export function read() {
  const given = new URLSearchParams(location.search);
  const place = Object.fromEntries(ORDER.map((name) => [name, given.get(name) ?? ""]));
  if (place.run) place.view = "run";
  if (!["runs", "run", "playbooks"].includes(place.view)) place.view = "runs";
  return place;
}

// Return the address of a place, for links.
export function of(place) {
  const shown = { ...place };
  if (shown.run || shown.view === "runs") shown.view = "";
  const parameters = new URLSearchParams(ORDER.filter((name) => shown[name]).map((name) => [name, shown[name]]));
  return `?${parameters}`;
}

// Times and durations, as people read them.

import { h } from "./element.js";

const TIME = new Intl.DateTimeFormat(undefined, { hour: "2-digit", minute: "2-digit", second: "2-digit" });
const DAY = new Intl.DateTimeFormat(undefined, { day: "numeric", month: "short", hour: "2-digit", minute: "2-digit" });
const YEAR = new Intl.DateTimeFormat(undefined, { year: "numeric", month: "short", day: "numeric" });

// Return a <time> in local time, with UTC on hover; "–" when there is none.
export function timeOf(text) {
  if (!text) return h("span", { class: "quiet" }, "–");
  return h("time", { datetime: text, title: utc(text) }, localTime(new Date(text)));
}

// Show each <time> of the page anew, as it reads today.
export function showTimes() {
  for (const time of document.querySelectorAll("time")) time.textContent = localTime(new Date(time.dateTime));
}

// Return a time as UTC: "2026-11-29 02:54:45.771 UTC".
export function utc(text) {
  return new Date(text).toISOString().replace("T", " ").replace("Z", " UTC");
}

function localTime(time) {
  const now = new Date();
  if (time.toDateString() === now.toDateString()) return TIME.format(time);
  return (time.getFullYear() === now.getFullYear() ? DAY : YEAR).format(time);
}

// Return a duration: "0.04 s", "12 s", "3 min 5 s", "2 h 10 min", "3 d 4 h".
export function duration(milliseconds) {
  const seconds = Math.max(0, milliseconds) / 1000;
  if (seconds < 0.995) return `${seconds.toFixed(2)} s`;
  if (seconds < 9.95) return `${seconds.toFixed(1)} s`;
  const whole = Math.round(seconds);
  if (whole < 60) return `${whole} s`;
  if (whole < 3600) return pair(whole, 60, "min", "s");
  const minutes = Math.round(whole / 60);
  return minutes < 1440 ? pair(minutes, 60, "h", "min") : pair(Math.floor(minutes / 60), 24, "d", "h");
}

function pair(number, size, large, small) {
  const rest = number % size;
  return `${Math.floor(number / size)} ${large}${rest ? ` ${rest} ${small}` : ""}`;
}

// Return how long a run has waited and worked: "queued 0.2 s, ran 1.4 s". `now`: the server's, for one that goes on.
export function durations(run, now) {
  const created = Date.parse(run.createdAt);
  const started = run.startedAt ? Date.parse(run.startedAt) : null;
  const end = run.finishedAt ? Date.parse(run.finishedAt) : now;
  if (started === null) return `queued ${duration(end - created)}`;
  const verb = run.finishedAt ? "ran" : "running";
  return `queued ${duration(started - created)}, ${verb} ${duration(end - started)}`;
}

// Return a text that sorts as the time does: ProtoJSON leaves out zeros at the end of a fraction.
export function timeKey(text) {
  const [seconds, fraction = ""] = text.replace("Z", "").split(".");
  return seconds + fraction.padEnd(9, "0");
}

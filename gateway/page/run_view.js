import { h } from "./element.js";
export function openRun() { return { element: h("h1", {}, "A run"), title: "Run" }; }

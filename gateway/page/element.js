// Elements, made and changed. Texts become text nodes, never markup.

// Return an element. `properties`: on<event> is a listener, class and for are themselves, true sets an attribute
// without a value, false, null and undefined leave it out. Children are nodes, texts, numbers, or lists of these.
export function h(tag, properties = {}, ...children) {
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(properties)) {
    if (name.startsWith("on")) element.addEventListener(name.slice(2), value);
    else setAttribute(element, name, value);
  }
  element.append(...nodes(children));
  return element;
}

// Set an attribute, or remove it where `value` is false, null or undefined.
export function setAttribute(element, name, value) {
  if (value === false || value === null || value === undefined) element.removeAttribute(name);
  else element.setAttribute(name, value === true ? "" : String(value));
}

// Replace what is in an element.
export function fill(element, ...children) {
  element.replaceChildren(...nodes(children));
}

// Replace what is in an element by what `make` returns, unless it was made for the same `key` already: what is there
// keeps its focus and its selection. Where the focus was on what is replaced, it goes to what takes its place.
export function refill(element, key, make) {
  if (element.dataset.key === key) return;
  element.dataset.key = key;
  const hasFocus = element.contains(document.activeElement);
  fill(element, make());
  if (hasFocus) element.querySelector("a, button:enabled")?.focus();
}

// Show `elements` in `parent`, in this order, and nothing else. What is in place stays, with its focus.
export function arrange(parent, elements) {
  const kept = new Set(elements);
  for (const child of [...parent.children]) if (!kept.has(child)) child.remove();
  let next = parent.firstElementChild;
  for (const element of elements) {
    if (element === next) next = next.nextElementSibling;
    else parent.insertBefore(element, next);
  }
}

function nodes(children) {
  return children.flat(Infinity).filter((child) => child !== null && child !== undefined && child !== false);
}

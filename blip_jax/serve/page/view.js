// Pieces of the page.

export const find = (selector) => document.querySelector(selector);

export function make(tag, properties = {}, ...children) {
  const element = Object.assign(document.createElement(tag), properties);
  element.append(...children);
  return element;
}

export function percent(value) {
  const number = 100 * value;
  if (number > 0 && number < 1e-4) return "< 0.0001 %";
  return `${number < 1 ? Number(number.toPrecision(2)) : number.toFixed(1)} %`;
}

// A text, or what stands for it, with a number and a bar of its share of 1.
export function score(content, number, share) {
  const filled = make("span");
  filled.style.width = `${Math.max(0.5, 100 * Math.min(1, share))}%`;
  const meter = make("div", { className: "meter" }, filled);
  meter.setAttribute("aria-hidden", "true");
  const text = make("span", { className: "text" }, content);
  return make("div", { className: "score" }, text, make("span", { className: "number" }, number), meter);
}

export const note = (text) => make("p", { className: "note" }, text);

let hiding = 0;
export function toast(message) {
  const place = find("#toast");
  place.textContent = message;
  place.hidden = false;
  clearTimeout(hiding);
  hiding = setTimeout(() => (place.hidden = true), 7000);
}

// Runs work with a place marked busy; what fails is told. What a later run has overtaken is
// thrown away: work is given a function that says whether it still counts.
const turns = new WeakMap();
export async function busy(place, work) {
  const turn = (turns.get(place) || 0) + 1;
  turns.set(place, turn);
  place.setAttribute("aria-busy", "true");
  place.replaceChildren(make("p", { className: "busy" }, "Working …"));
  const current = () => turns.get(place) === turn;
  try {
    await work(current);
  } catch (error) {
    if (!current()) return;
    place.replaceChildren();
    toast(error.message);
  } finally {
    if (current()) place.removeAttribute("aria-busy");
  }
}

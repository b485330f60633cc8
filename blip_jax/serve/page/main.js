// What the page asks about one picture.

import { ask, post } from "./api.js";
import { watchGallery } from "./gallery.js";
import { hideHeat, onPicture, picture, showHeat, watchPicture } from "./picture.js";
import { busy, find, make, note, percent, score, toast } from "./view.js";

const METHODS = [
  ["beam", "Beam search", 3],
  ["greedy", "Greedy", 1],
  ["nucleus", "Nucleus sampling", 3],
];
let models = [];
let seed = 0;

// The chosen model where it can, else none, which lets the service choose.
export function modelFor(ability) {
  const chosen = models.find((model) => model.id === find("#model").value);
  return chosen?.abilities.includes(ability) ? chosen.id : "";
}

const can = (ability) => models.some((model) => model.abilities.includes(ability));

function scores(results) {
  const best = Math.max(...results.map((one) => one.probability), 1e-300);
  return results.map((one) => score(one.text || "(nothing)", percent(one.probability), one.probability / best));
}

function writeWith(place, [method, title, count]) {
  const again = make("button", { className: "plain", type: "button" }, "Sample again");
  again.addEventListener("click", () => {
    seed += 1;
    writeWith(place, [method, title, count]);
  });
  const list = make("div");
  place.replaceChildren(make("h3", {}, title, ...(method === "nucleus" ? [again] : [])), list);
  const fields = { method, num_captions: count, prompt: find("#prompt").value.trim(), seed, model: modelFor("caption") };
  return busy(list, async (current) => {
    const found = await post("/v1/captions", picture(), fields);
    if (current()) list.replaceChildren(...scores(found.results[0]));
  });
}

function write() {
  if (!can("caption")) return;
  const places = METHODS.map(() => make("div", { className: "method" }));
  find("#methods").replaceChildren(...places);
  places.forEach((place, i) => writeWith(place, METHODS[i]));
}

function answer() {
  const list = find("#answers-list");
  const question = find("#question").value.trim();
  if (!question) return list.replaceChildren();
  return busy(list, async (current) => {
    const found = await post("/v1/answers", picture(), { question, top_n: 3, model: modelFor("answer") });
    if (current()) list.replaceChildren(...scores(found.results[0]));
  });
}

// A text whose words show where they were found; all maps of a text come at once.
function words(text) {
  let maps = null;
  const line = make("span");
  text.split(/\s+/).forEach((word, number) => {
    const button = make("button", { className: "word", type: "button" }, word);
    button.setAttribute("aria-pressed", "false");
    button.title = "Show where this word was found";
    button.addEventListener("click", async () => {
      if (button.getAttribute("aria-pressed") === "true") return hideHeat();
      try {
        maps ??= (await post("/v1/explanations", picture(), { text, model: modelFor("explain") })).words;
        const found = mapOf(maps, text, number);
        if (!found) return toast("The model does not read that word.");
        hideHeat();
        button.setAttribute("aria-pressed", "true");
        showHeat(found.heatmap, word);
      } catch (error) {
        toast(error.message);
      }
    });
    line.append(button, " ");
  });
  return line;
}

// The model reads words in lower case, without most punctuation: the n-th time a word is typed
// is the n-th time it is read.
function mapOf(maps, text, number) {
  const clean = (word) => word.toLowerCase().replace(/[.!"()*#:;~]/g, "");
  const typed = text.split(/\s+/).map(clean);
  const before = typed.slice(0, number).filter((word) => word === typed[number]).length;
  return maps.filter((map) => map.word === typed[number])[before];
}

function match() {
  const list = find("#match-list");
  const lines = find("#texts").value.split("\n").map((line) => line.trim());
  const text = [...new Set(lines.filter(Boolean))].slice(0, 64);
  hideHeat();
  if (!text.length) return list.replaceChildren();
  return busy(list, async (current) => {
    const found = (await post("/v1/match", picture(), { text, model: modelFor("match") })).results[0];
    if (!current()) return;
    const best = found.toSorted((a, b) => b.itm - a.itm);
    list.replaceChildren(...best.map((one) => score(words(one.text), `${percent(one.itm)} · cosine ${one.itc.toFixed(2)}`, one.itm)));
  });
}

function onSubmit(selector, work) {
  find(selector).addEventListener("submit", (event) => {
    event.preventDefault();
    if (picture()) work();
    else toast("Choose a picture first.");
  });
}

async function connect() {
  const status = find("#status");
  const say = (state, text) => Object.assign(status, { textContent: text }).setAttribute("data-state", state);
  for (;;) {
    try {
      await ask("/readyz");
      break;
    } catch (error) {
      say(error.message.includes("compiled") ? "wait" : "lost", error.message);
      await new Promise((done) => setTimeout(done, 1500));
    }
  }
  models = (await ask("/v1/models")).data;
  find("#model").append(...models.map((model) => make("option", { value: model.id }, `${model.id} (${model.task})`)));
  find("#models").hidden = models.length === 1;
  say("ready", models.length === 1 ? `${models[0].id} is ready` : `${models.length} models are ready`);
  const missing = { captions: ["caption", "writes captions"], answers: ["answer", "answers questions"], match: ["match", "matches texts"], gallery: ["match", "matches texts"] };
  for (const [id, [ability, what]] of Object.entries(missing)) {
    if (can(ability)) continue;
    const card = find(`#${id}`);
    card.querySelectorAll("form, .row").forEach((part) => part.remove());
    card.append(note(`No model here ${what}. Start the service with one that does, --model M --model NAME=OTHER.`));
  }
  if (picture()) askAll();
}

function askAll() {
  if (!models.length) return;
  write();
  if (find("#question")?.value.trim()) answer();
  if (find("#texts")?.value.trim()) match();
}

watchPicture();
watchGallery(modelFor);
onPicture(askAll);
onSubmit("#captions-form", write);
onSubmit("#answers-form", answer);
onSubmit("#match-form", match);
find("#model").addEventListener("change", () => picture() && askAll());
connect();

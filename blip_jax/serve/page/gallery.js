// Many pictures, ordered by how well a sentence fits them.

import { post } from "./api.js";
import { show, TYPES } from "./picture.js";
import { find, make, percent, toast } from "./view.js";

const AT_ONCE = 4;
let entries = []; // {file, item, number}

function add(files, choose) {
  const pictures = [...files].filter((file) => TYPES.includes(file.type));
  if (pictures.length < files.length) toast("Some files are no JPEG, PNG or WebP pictures.");
  for (const file of pictures) {
    const image = make("img", { alt: file.name, src: URL.createObjectURL(file), loading: "lazy" });
    const button = make("button", { type: "button", title: `Look at ${file.name}` }, image);
    button.addEventListener("click", () => choose(file));
    const number = make("span", { className: "number" });
    entries.push({ file, number, item: make("li", {}, button, number) });
  }
  tell();
  find("#thumbs").append(...entries.map((entry) => entry.item));
}

function tell() {
  const count = entries.length;
  find("#gallery-count").textContent = count ? `${count} ${count === 1 ? "picture" : "pictures"}` : "";
  find("#gallery-clear").hidden = !count;
}

// Scores of all pictures, a few requests at a time.
async function scoreAll(sentence, model, told) {
  const waiting = [...entries];
  const worker = async () => {
    for (let entry; (entry = waiting.shift()); ) {
      try {
        const found = await post("/v1/match", entry.file, { text: sentence, model });
        entry.match = found.results[0][0];
      } catch (error) {
        entry.match = null;
        toast(`${entry.file.name}: ${error.message}`);
      }
      told(entries.length - waiting.length);
    }
  };
  await Promise.all(Array.from({ length: AT_ONCE }, worker));
}

async function search(model) {
  const sentence = find("#sentence").value.trim();
  if (!sentence || !entries.length) return toast(entries.length ? "Type a sentence to look for." : "Add pictures first.");
  const list = find("#thumbs");
  const button = find("#gallery-form button");
  button.disabled = true;
  list.setAttribute("aria-busy", "true");
  await scoreAll(sentence, model, (done) => (find("#gallery-count").textContent = `${done} of ${entries.length} …`));
  entries.sort((a, b) => (b.match?.itm ?? -1) - (a.match?.itm ?? -1));
  entries.forEach((entry, i) => {
    entry.number.textContent = entry.match ? percent(entry.match.itm) : "no score";
    entry.item.classList.toggle("best", i === 0 && Boolean(entry.match));
  });
  list.append(...entries.map((entry) => entry.item));
  list.removeAttribute("aria-busy");
  button.disabled = false;
  tell();
}

export function watchGallery(modelFor) {
  const choose = (file) => {
    show(file);
    find("#drop").scrollIntoView({ block: "center" });
  };
  find("#files").addEventListener("change", (event) => {
    add(event.target.files, choose);
    event.target.value = "";
  });
  find("#gallery-clear").addEventListener("click", () => {
    entries.forEach((entry) => URL.revokeObjectURL(entry.item.querySelector("img").src));
    entries = [];
    find("#thumbs").replaceChildren();
    tell();
  });
  find("#gallery-form").addEventListener("submit", (event) => {
    event.preventDefault();
    search(modelFor("match"));
  });
}

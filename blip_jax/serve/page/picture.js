// The picture, however it comes, and the heat map over it.

import { find, toast } from "./view.js";

export const TYPES = ["image/jpeg", "image/png", "image/webp"];
const image = find("#picture");
const heat = find("#heat");
const listeners = [];

let current = null;

export const picture = () => current;
export const onPicture = (listener) => listeners.push(listener);

export function show(file) {
  if (!file || !TYPES.includes(file.type)) return toast("That is no JPEG, PNG or WebP picture.");
  current = file;
  if (image.src) URL.revokeObjectURL(image.src);
  image.src = URL.createObjectURL(file);
  find("#figure").hidden = false;
  find("#empty").hidden = true;
  find("#drop").classList.add("full");
  hideHeat();
  listeners.forEach((listener) => listener());
}

const anchors = [[59, 76, 192, 0], [34, 197, 224, 110], [250, 204, 21, 165], [239, 68, 68, 205]];

// Blue to red, and more opaque, with a share of the largest.
function colour(share) {
  const place = Math.min(0.999, share) * (anchors.length - 1);
  const [low, high] = [anchors[Math.floor(place)], anchors[Math.floor(place) + 1]];
  return low.map((value, i) => value + (place % 1) * (high[i] - value));
}

export function showHeat(rows, word) {
  const grid = new ImageData(rows[0].length, rows.length);
  const most = Math.max(...rows.flat(), 1e-12);
  rows.flat().forEach((value, i) => grid.data.set(colour(value / most), 4 * i));
  const small = new OffscreenCanvas(grid.width, grid.height);
  small.getContext("2d").putImageData(grid, 0, 0);
  heat.width = heat.height = 512;
  const context = heat.getContext("2d");
  context.imageSmoothingQuality = "high";
  context.drawImage(small, 0, 0, heat.width, heat.height);
  heat.hidden = false;
  find("#clear-heat").hidden = false;
  heat.scrollIntoView({ block: "nearest" });
  find("#caption-line").textContent = `Where “${word}” was found: red most, blue least.`;
}

export function hideHeat() {
  heat.hidden = true;
  find("#clear-heat").hidden = true;
  find("#caption-line").textContent = "";
  document.querySelectorAll(".word[aria-pressed='true']").forEach((word) => word.setAttribute("aria-pressed", "false"));
}

export function watchPicture() {
  const drop = find("#drop");
  image.addEventListener("load", () => {
    find("#figure").style.setProperty("--ratio", image.naturalWidth / image.naturalHeight);
  });
  find("#file").addEventListener("change", (event) => {
    if (event.target.files[0]) show(event.target.files[0]);
    event.target.value = "";
  });
  find("#clear-heat").addEventListener("click", hideHeat);
  addEventListener("dragover", (event) => event.preventDefault());
  addEventListener("drop", (event) => event.preventDefault());
  drop.addEventListener("dragover", () => drop.classList.add("over"));
  drop.addEventListener("dragleave", () => drop.classList.remove("over"));
  drop.addEventListener("drop", (event) => {
    drop.classList.remove("over");
    show(event.dataTransfer.files[0]);
  });
  addEventListener("paste", (event) => {
    const files = [...event.clipboardData.files];
    if (files.length) show(files[0]);
  });
}

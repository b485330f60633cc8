// The OpenAPI document, as a page.

import { find, make, note } from "./view.js";

const resolve = (schema, whole) =>
  schema?.$ref ? schema.$ref.slice(2).split("/").reduce((place, key) => place[key], whole) : schema;

function typeOf(schema) {
  if (schema.$ref) return schema.$ref.split("/").pop();
  if (schema.enum) return schema.enum.map((one) => JSON.stringify(one)).join(" | ");
  if (schema.const !== undefined) return JSON.stringify(schema.const);
  const any = schema.anyOf || schema.oneOf;
  if (any) return any.map(typeOf).join(" or ");
  if (schema.type === "array") return `list of ${typeOf(schema.items || {})}`;
  return schema.title && schema.type === "object" ? schema.title : schema.type || "object";
}

function fields(schema) {
  const rows = Object.entries(schema.properties || {}).map(([name, field]) => {
    const needed = schema.required?.includes(name) ? "needed" : field.default != null ? `default ${JSON.stringify(field.default)}` : "";
    return make("tr", {}, make("td", {}, make("code", {}, name)), make("td", {}, typeOf(field)), make("td", {}, [needed, field.description].filter(Boolean).join("; ")));
  });
  return make("div", { className: "scroll" }, make("table", {}, make("tbody", {}, ...rows)));
}

const EXAMPLES = {
  "/v1/captions": "-F image=@photo.jpg -F method=nucleus -F num_captions=3",
  "/v1/answers": '-F image=@photo.jpg -F question="how many dogs are there?"',
  "/v1/match": '-F image=@a.jpg -F image=@b.jpg -F text="a dog" -F text="a cat"',
  "/v1/explanations": '-F image=@photo.jpg -F text="a dog on the grass"',
  "/v1/embeddings": '-F image=@photo.jpg -F text="a dog"',
  "/api/v1/inference/blip": "-F image=@photo.jpg",
  "/models/{model}": "-H 'content-type: image/jpeg' --data-binary @photo.jpg",
};

function operation(path, verb, one, whole) {
  const title = make("h2", {}, make("span", { className: "verb" }, verb.toUpperCase()), " ", make("code", {}, path));
  const card = make("section", { className: "card" }, title, note(one.description || ""));
  const content = one.requestBody?.content || {};
  const schema = resolve(content["application/json"]?.schema, whole);
  if (schema) card.append(fields(schema), note(`Body: ${Object.keys(content).join(", ")}`));
  if (EXAMPLES[path]) card.append(make("pre", {}, `curl ${EXAMPLES[path]} ${location.origin}${path}`));
  const answer = resolve(one.responses?.["200"]?.content?.["application/json"]?.schema, whole);
  if (answer?.properties) card.append(make("h3", {}, "Answer"), fields(answer));
  const others = Object.keys(one.responses || {}).filter((code) => code !== "200");
  if (others.length) card.append(note(`Refusals: ${others.join(", ")}, each {"error": {"code", "message", "request_id"}}`));
  return card;
}

const whole = await (await fetch("/openapi.json")).json();
const cards = Object.entries(whole.paths).flatMap(([path, verbs]) =>
  Object.entries(verbs).map(([verb, one]) => operation(path, verb, one, whole)));
find("#operations").append(...cards);

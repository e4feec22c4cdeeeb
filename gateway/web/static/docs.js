"use strict";
// Shows /openapi.json with Swagger UI. The document is changed for readers before: the fields of a body become a table,
// errors become one line, and the URLs of examples lead to sample files that this gateway serves.

const PLACEHOLDER = /^https:\/\/example\.com\/(?:.*\/)?([^/]+)$/;
const SAMPLES = [
  [/\.(mp4|mov|mkv|webm)$/, "video.mp4"],
  [/\.(jpe?g|png|webp|avif|gif)$/, "photo.jpg"],
  [/^narration\./, "narration.mp3"],
  [/\.(mp3|m4a|wav)$/, "music.mp3"],
  [/\.(srt|vtt|ass)$/, "captions.en.srt"],
];
const METHODS = ["get", "put", "post", "delete"];

const main = document.getElementById("api");

// `value`, which is JSON, with samples in place of files at example.com.
function withSamples(value) {
  if (typeof value === "string") {
    const [, name] = PLACEHOLDER.exec(value) ?? [];
    const [, sample] = (name && SAMPLES.find(([pattern]) => pattern.test(name))) || [];
    return sample ? main.dataset.samples + sample : value;
  }
  if (Array.isArray(value)) return value.map(withSamples);
  if (value === null || typeof value !== "object") return value;
  return Object.fromEntries(Object.entries(value).map(([key, inner]) => [key, withSamples(inner)]));
}

function resolved(spec, schema) {
  if (!schema.$ref) return schema;
  const path = schema.$ref.replace("#/", "").split("/");
  return { ...path.reduce((node, part) => node[part], spec), ...schema };
}

// The schema of an object, where `schema` is one, a list of them, or null beside one.
function objectIn(spec, schema) {
  const known = resolved(spec, schema);
  if (known.properties) return known;
  const inside = [known.items, ...(known.allOf ?? []), ...(known.anyOf ?? []), ...(known.oneOf ?? [])].filter(Boolean);
  return inside.map((inner) => objectIn(spec, inner)).find(Boolean);
}

function kind(spec, schema) {
  const known = resolved(spec, schema);
  if (known.enum) return known.enum.filter((value) => value !== null).map((value) => `\`${value}\``).join(", ");
  if (known.items) return `list of ${kind(spec, known.items)}`;
  const several = known.anyOf ?? known.oneOf;
  if (several && !known.type) return [...new Set(several.map((inner) => kind(spec, inner)))].join(" or ");
  const type = [known.type ?? "object"].flat().filter((name) => name !== "null").join(" or ");
  const low = known.minimum ?? (known.exclusiveMinimum === undefined ? undefined : `more than ${known.exclusiveMinimum}`);
  return low === undefined || known.maximum === undefined ? type : `${type}, ${low} to ${known.maximum}`;
}

// A Markdown table of the object's fields, followed by one for each field that is an object itself.
function table(spec, object, seen = new Set()) {
  seen.add(object);
  const cell = (text) => String(text ?? "").replaceAll("|", "\\|").replaceAll("\n", " ");
  const rows = ["| Field | Kind | Meaning |", "|---|---|---|"];
  const inner = [];
  for (const [name, schema] of Object.entries(object.properties)) {
    const known = resolved(spec, schema);
    const must = object.required?.includes(name) ? " **required**" : "";
    const preset = known.default === undefined || known.default === null ? "" : `, default \`${known.default}\``;
    rows.push(`| \`${name}\`${must} | ${cell(kind(spec, schema) + preset)} | ${cell(known.description)} |`);
    const below = objectIn(spec, schema);
    if (below && !seen.has(below)) inner.push([name, below]);
  }
  const nested = inner.map(([name, below]) => {
    const count = Object.keys(below.properties).length;
    return `<details><summary>${name}: ${count} fields</summary>\n\n${table(spec, below, seen)}\n\n</details>`;
  });
  return [rows.join("\n"), ...nested].join("\n\n");
}

// One line with the codes of all errors, each a link to its explanation. Headers are left out: most have the same.
function foldErrors(responses) {
  const lines = [];
  for (const [status, response] of Object.entries(responses)) {
    delete response.headers;
    if (!/^[45]\d\d$|^default$/.test(status)) continue;
    delete responses[status];
    const codes = [...(response.description ?? "").matchAll(/`([a-z_]+)`:/g)].map(([, code]) => code);
    if (codes.length) lines.push(`${status} ${codes.map((code) => `[${code}](/errors/${code})`).join(", ")}`);
  }
  if (lines.length) responses.Errors = { description: lines.join(" · ") };
}

function forReaders(spec) {
  delete spec.servers; // requests go to the address at which the page was opened
  for (const path of Object.values(spec.paths)) {
    for (const operation of METHODS.map((method) => path[method]).filter(Boolean)) {
      const body = operation.requestBody?.content?.["application/json"];
      if (body) {
        const object = objectIn(spec, body.schema);
        if (object) operation.description = `${operation.description ?? ""}\n\n${table(spec, object)}\n`;
        operation.requestBody = withSamples(operation.requestBody);
      }
      foldErrors(operation.responses);
    }
  }
  return spec;
}

fetch("/openapi.json")
  .then((response) => response.json())
  .then((spec) => {
    SwaggerUIBundle({
      spec: forReaders(spec),
      domNode: main,
      deepLinking: true,
      defaultModelsExpandDepth: -1, // all schemas once more, below the operations
      tryItOutEnabled: true,
      validatorUrl: null, // it would make a server of others fetch the document
    });
  });

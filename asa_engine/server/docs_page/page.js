// A page made from openapi.json: what there is, and a form to try each of it. Texts of documents
// and answers only ever become text nodes.
"use strict";

const METHODS = ["get", "put", "post", "delete", "patch", "head", "options"];

function element(name, attributes = {}, ...children) {
  const made = Object.assign(document.createElement(name), attributes);
  made.append(...children);
  return made;
}

// An input for one schema: a file, a choice, or a line.
function inputFor(schema) {
  if (schema.format === "binary") return element("input", { type: "file" });
  if (schema.enum) {
    const names = ["", ...schema.enum]; // nothing is sent where nothing is chosen
    return element("select", {}, ...names.map((name) => new Option(name, name)));
  }
  const type = ["integer", "number"].includes(schema.type) ? "number" : "text";
  const input = element("input", { type, spellcheck: false });
  if (type === "text") input.placeholder = schema.pattern ?? "";
  else input.placeholder = String(schema.default ?? "");
  return input;
}

function labelled(name, description, required, input) {
  input.name = name;
  input.required = Boolean(required);
  const note = [required ? "required" : "", description ?? ""].filter(Boolean).join("; ");
  return element("label", {}, element("code", {}, name), note ? ` (${note})` : "", input);
}

// The fields of a body in one media type, and what makes the body of them.
function bodyFields(type, schema) {
  if (type === "multipart/form-data") {
    const inputs = Object.entries(schema.properties).map(([name, each]) => {
      const input = inputFor(each);
      const isRequired = (schema.required ?? []).includes(name);
      return { input, label: labelled(name, each.description, isRequired, input) };
    });
    const make = () => {
      const form = new FormData();
      for (const { input } of inputs) {
        if (input.type === "file") input.files[0] && form.append(input.name, input.files[0]);
        else if (input.value !== "") form.append(input.name, input.value);
      }
      return { body: form, headers: {} };
    };
    return { labels: inputs.map(({ label }) => label), make };
  }
  const input = inputFor(schema);
  const make = () => ({
    body: input.type === "file" ? input.files[0] : input.value,
    headers: { "Content-Type": type },
  });
  return { labels: [labelled("body", "", true, input)], make };
}

function bodyPart(described) {
  const place = element("div");
  const kinds = Object.entries(described.content).map(([type, { schema }]) => [
    type,
    bodyFields(type, schema ?? {}),
  ]);
  const choice = element("select", {}, ...kinds.map(([type]) => new Option(type, type)));
  const chosen = () => kinds.find(([type]) => type === choice.value)[1];
  const show = () => place.replaceChildren(...chosen().labels);
  choice.addEventListener("change", show);
  show();
  const note = described.description ? ` (${described.description})` : "";
  const label = element("label", {}, element("code", {}, "Content-Type"), note, choice);
  return { nodes: [label, place], make: () => chosen().make() };
}

async function answered(response, milliseconds) {
  let text = await response.text();
  if ((response.headers.get("Content-Type") ?? "").startsWith("application/json")) {
    // Numbers are shown as they came: no digit is lost to reading and writing them.
    try { JSON.parse(text); text = indented(text); } catch { /* as it is */ }
  }
  const headers = [...response.headers].map(([name, value]) => `${name}: ${value}`).join("\n");
  return [
    element("p", { role: "status" }, element("b", {}, `${response.status} `),
      `${response.statusText}, ${Math.round(milliseconds)} ms`),
    element("details", {}, element("summary", {}, "Headers"), element("pre", {}, headers)),
    element("pre", { className: "body" }, text),
  ];
}

// JSON with line breaks, its tokens untouched.
function indented(json) {
  let depth = 0;
  const line = () => `\n${"  ".repeat(depth)}`;
  return json.replace(/"(?:[^"\\]|\\.)*"|\s+|\{\s*\}|\[\s*\]|[{}[\],:]/g, (token) => {
    if (/^\s/.test(token)) return "";
    if (token === "{" || token === "[") { depth += 1; return token + line(); }
    if (token === "}" || token === "]") { depth -= 1; return line() + token; }
    if (token === ",") return token + line();
    return token === ":" ? ": " : token;
  });
}

function operation(path, method, described, shared) {
  const parameters = [...shared, ...(described.parameters ?? [])].map((each) => {
    const input = inputFor(each.schema);
    return { each, input, label: labelled(each.name, each.description, each.required, input) };
  });
  const form = element("form", {}, ...parameters.map(({ label }) => label));
  const body = described.requestBody && bodyPart(described.requestBody);
  if (body) form.append(...body.nodes);
  const result = element("div");
  const button = element("button", {}, "Send");
  form.append(button);
  form.addEventListener("submit", async (event) => {
    event.preventDefault();
    const query = new URLSearchParams();
    let filled = path;
    for (const { each, input } of parameters) {
      if (each.in === "path") filled = filled.replace(`{${each.name}}`, encodeURIComponent(input.value));
      else if (input.value !== "") query.append(each.name, input.value);
    }
    const { body: sent, headers } = body ? body.make() : { headers: {} };
    const key = document.getElementById("key").value.trim();
    if (key) headers.Authorization = `Bearer ${key}`;
    const asked = query.size ? `${filled}?${query}` : filled;
    button.disabled = true;
    result.replaceChildren(element("p", { role: "status" }, "Waiting..."));
    const start = performance.now();
    try {
      // Beside this page, so that a proxy may give the server a folder of its own.
      const response = await fetch(new URL(`.${asked}`, document.baseURI), {
        method: method.toUpperCase(), headers, body: sent, credentials: "omit",
      });
      result.replaceChildren(...await answered(response, performance.now() - start));
    } catch (failure) {
      result.replaceChildren(element("p", { role: "alert" }, `No answer: ${failure.message}`));
    } finally {
      button.disabled = false;
    }
  });
  const rows = Object.entries(described.responses).map(([status, { description }]) =>
    element("tr", {}, element("td", {}, status), element("td", {}, description)));
  const isSocket = "101" in described.responses;
  const way = isSocket
    ? [element("p", {}, "A WebSocket, which forms cannot open. Its parameters: ",
        parameters.map(({ each }) => each.name).join(", "), ".")]
    : [form, result];
  return element("details", { id: described.operationId },
    element("summary", {}, element("b", {}, method.toUpperCase()), element("code", {}, path),
      ` ${described.summary ?? ""}`),
    ...way,
    element("details", {}, element("summary", {}, "Answers"), element("table", {}, ...rows)));
}

async function main() {
  const place = document.getElementById("operations");
  try {
    const response = await fetch("openapi.json", { credentials: "omit" });
    if (!response.ok) throw new Error(`openapi.json: ${response.status}`);
    const told = await response.json();
    document.getElementById("version").textContent = told.info.version;
    document.getElementById("about").textContent = told.info.description;
    place.replaceChildren(...Object.entries(told.paths).flatMap(([path, each]) =>
      METHODS.filter((method) => method in each).map((method) =>
        operation(path, method, each[method], each.parameters ?? []))));
  } catch (failure) {
    place.replaceChildren(element("p", { role: "alert" }, `Cannot be shown: ${failure.message}`));
  }
}

main();

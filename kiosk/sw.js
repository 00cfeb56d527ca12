// Keeps the page for when there is no network, and lets it ask nobody but the place it came from.
const CACHE = "asa-kiosk @VERSION@"; // make kiosk puts a hash of all files here
const FILES = [
  "./",
  "app.js",
  "capture.js",
  "grader.asa",
  "grading.js",
  "icon.svg",
  "reading.asa",
  "recorder.js",
  "sounds.js",
  "strings.js",
  "style.css",
  "web/asa-threads.mjs",
  "web/asa-threads.wasm",
  "web/asa-threads.worker.js",
  "web/asa.mjs",
  "web/asa.wasm",
  "web/index.js",
  "words.js",
];
// A worker has its own policy, and it comes by a header.
const POLICY =
  "default-src 'none'; script-src 'self' 'wasm-unsafe-eval'; style-src 'self'; img-src 'self'; " +
  "media-src blob:; connect-src 'self'; worker-src 'self'; base-uri 'none'; form-action 'none'";

async function keep() {
  const cache = await caches.open(CACHE);
  // Past the browser's own cache, which may hold files of the version before.
  await cache.addAll(FILES.map((file) => new Request(file, { cache: "no-cache" })));
}

async function takeOver() {
  for (const name of await caches.keys()) {
    if (name.startsWith("asa-kiosk ") && name !== CACHE) await caches.delete(name);
  }
  await clients.claim();
}

async function answer(request) {
  if (new URL(request.url).origin !== location.origin) return Response.error();
  const cache = await caches.open(CACHE);
  const page = request.mode === "navigate" ? "./" : request;
  const found = (await cache.match(page, { ignoreSearch: true })) ?? (await fetch(request));
  const headers = new Headers(found.headers);
  headers.set("Content-Security-Policy", POLICY);
  return new Response(found.body, { status: found.status, statusText: found.statusText, headers });
}

addEventListener("install", (event) => {
  skipWaiting();
  event.waitUntil(keep());
});
addEventListener("activate", (event) => event.waitUntil(takeOver()));
addEventListener("fetch", (event) => event.respondWith(answer(event.request)));

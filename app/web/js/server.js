// @ts-check
/* The one module that speaks to the server.

   `call` asks an endpoint through Gradio's queue, with a session of its own for each question, so
   that answers of different questions cannot meet. Aborting it stops the question at once, also
   while it waits: the server notices the closed stream and frees its place. `page` and `state` are
   plain requests. */

/** @typedef {{rank: number, eta: number | null, of: number}} Place */

/** An error whose message is one sentence for a person; `field` names the parameter it is about. */
export class ServerError extends Error {
  /**
   * @param {string} sentence
   * @param {string} [field] such as "edits.0.strength"
   * @param {{full?: boolean, gone?: boolean}} [kind] whether the queue is full, nothing answers
   */
  constructor(sentence, field = "", { full = false, gone = false } = {}) {
    super(sentence);
    this.name = "ServerError";
    this.field = field;
    this.full = full;
    this.gone = gone;
  }
}

const UNREACHABLE = "The server did not answer: it has stopped, or the connection is gone.";
const FAILED = "Something went wrong here; the server's log says what.";

/** @type {Record<string, {index: number, parameters: string[]}> | null} */
let endpoints = null;

/** @param {string} name */
function endpoint(name) {
  endpoints ??= JSON.parse(document.getElementById("endpoints")?.textContent ?? "{}");
  const listed = endpoints?.[name];
  if (!listed) throw new Error(`there is no endpoint ${name}`);
  return listed;
}

/** The address of a path within the app, wherever a proxy serves it. @param {string} path */
export const within = (path) =>
  new URL((document.documentElement.dataset.root ?? "") + path, document.baseURI).href;

/**
 * Ask an endpoint. A stream's growing answers come to `onProgress`; the last one is returned.
 *
 * @param {string} name
 * @param {Record<string, unknown>} args by name; what is left out has its default
 * @param {{
 *   onProgress?: (answer: any) => void,
 *   onQueue?: (place: Place) => void,
 *   onStart?: () => void,
 *   signal?: AbortSignal,
 *   keepalive?: boolean,
 * }} [options] `keepalive`: the server is asked even if the page is left at once
 * @returns {Promise<any>} rejects with ServerError, or with an AbortError
 */
export async function call(name, args, options = {}) {
  const { onProgress, onQueue, onStart, signal, keepalive } = options;
  const { index, parameters } = endpoint(name);
  const session = crypto.getRandomValues(new Uint32Array(3)).join("");
  const data = parameters.map((parameter) => args[parameter] ?? null);
  const joined = { data, fn_index: index, session_hash: session };
  await send("gradio_api/queue/join", joined, signal, keepalive);
  let latest = null;
  for await (const message of events(`gradio_api/queue/data?session_hash=${session}`, signal)) {
    if (message.msg === "estimation") {
      onQueue?.({ rank: message.rank, eta: message.rank_eta, of: message.queue_size });
    } else if (message.msg === "process_starts") {
      onStart?.();
    } else if (message.msg === "process_generating" && message.success) {
      const [change] = message.output.data;
      // The first answer comes whole, later ones as what has changed.
      latest = latest === null || !Array.isArray(change) ? change : patched(latest, change);
      onProgress?.(latest);
    } else if (message.msg === "process_completed") {
      if (message.success && message.output?.data) return message.output.data[0];
      throw new ServerError(message.output?.error ?? FAILED, message.output?.title ?? "");
    } else if (message.msg === "unexpected_error" || message.msg === "server_stopped") {
      throw new ServerError(UNREACHABLE);
    }
  }
  throw new ServerError(UNREACHABLE);
}

/**
 * A page's HTML, and its address, which the server may have made more exact. What went wrong on a
 * page stands in its HTML.
 * @param {string} address
 * @param {AbortSignal} [signal]
 * @returns {Promise<{html: string, url: string}>}
 */
export async function page(address, signal) {
  const target = new URL(address, document.baseURI);
  const response = await reached(fetch(target, { signal, headers: { accept: "text/html" } }));
  const isPage = response.headers.get("content-type")?.startsWith("text/html");
  if (!isPage) throw await refusal(response);
  return { html: await reached(response.text()), url: response.url };
}

/**
 * What the server is at: the model, its memory, checks.
 * @param {string[][]} query pairs of names and values
 */
export async function state(query) {
  const response = await reached(fetch(within(`state?${new URLSearchParams(query)}`)));
  if (!response.ok) throw await refusal(response);
  return response.json();
}

/**
 * Which index of an SAE is read, and what is wrong with a file in its place that is not.
 * @param {string} sae
 * @returns {Promise<{revision: string, note: string}>}
 */
export async function revision(sae) {
  const response = await reached(fetch(within(`revision?${new URLSearchParams({ sae })}`)));
  if (!response.ok) throw await refusal(response);
  return response.json();
}

/**
 * What a file or picture of a page is of: the app's version, the model, the SAE and its hash.
 * @param {string} sae
 * @returns {Promise<Record<string, string>>}
 */
export async function about(sae) {
  const response = await reached(fetch(within(`about?${new URLSearchParams({ sae })}`)));
  if (!response.ok) throw await refusal(response);
  return response.json();
}

/**
 * What changes when there is something new to show of the training run.
 * @returns {Promise<{revision: string}>}
 */
export async function progress() {
  const response = await reached(fetch(within("progress")));
  if (!response.ok) throw await refusal(response);
  return response.json();
}

/**
 * @param {string} path
 * @param {unknown} body
 * @param {AbortSignal} [signal]
 * @param {boolean} [keepalive]
 */
async function send(path, body, signal, keepalive = false) {
  const response = await reached(
    fetch(within(path), {
      method: "POST",
      headers: { "content-type": "application/json" },
      body: JSON.stringify(body),
      signal,
      keepalive,
    }),
  );
  if (!response.ok) throw await refusal(response);
}

/**
 * A failed fetch, or a stream that breaks off, as a sentence; an abort stays one.
 * @template T
 * @param {Promise<T>} request
 * @returns {Promise<T>}
 */
async function reached(request) {
  try {
    return await request;
  } catch (error) {
    if (error instanceof DOMException && error.name === "AbortError") throw error;
    // The frame says so, and goes on asking until there is an answer again.
    document.dispatchEvent(new Event("jumpscope:gone"));
    throw new ServerError(UNREACHABLE, "", { gone: true });
  }
}

/** @param {Response} response */
async function refusal(response) {
  const said = await response.json().catch(() => ({}));
  const sentence = typeof said.detail === "string" ? said.detail : FAILED;
  return new ServerError(sentence, said.field ?? "", { full: response.status === 503 });
}

/** The messages of a stream of server-sent events. @param {string} path @param {AbortSignal} [signal] */
async function* events(path, signal) {
  const response = await reached(fetch(within(path), { signal }));
  if (!response.ok || !response.body) throw await refusal(response);
  const reader = response.body.pipeThrough(new TextDecoderStream()).getReader();
  let text = "";
  try {
    for (;;) {
      const { done, value } = await reached(reader.read());
      if (done) return;
      text += value;
      const parts = text.split("\n\n");
      text = parts.pop() ?? "";
      for (const part of parts) {
        if (part.startsWith("data: ")) yield JSON.parse(part.slice(6));
      }
    }
  } finally {
    reader.cancel().catch(() => {});
  }
}

/**
 * `value` with Gradio's changes to it: [action, path, new value], …
 *
 * @param {any} value
 * @param {[string, (string | number)[], any][]} changes
 */
export function patched(value, changes) {
  const holder = { root: structuredClone(value) };
  for (const [action, path, change] of changes) {
    const whole = ["root", ...path];
    const last = whole.pop() ?? "root";
    /** @type {any} */
    let parent = holder;
    for (const key of whole) parent = parent[key];
    if (action === "replace") parent[last] = change;
    else if (action === "append") parent[last] += change;
    else if (action === "add") {
      if (Array.isArray(parent)) parent.splice(Number(last), 0, change);
      else parent[last] = change;
    } else if (action === "delete") {
      if (Array.isArray(parent)) parent.splice(Number(last), 1);
      else delete parent[last];
    } else throw new Error(`an unknown change: ${action}`);
  }
  return holder.root;
}

// Calls of the service: the key, the one retry when it is busy, errors as sentences.

const LONGEST_WAIT = 10; // seconds

export class ServiceError extends Error {
  constructor(status, message) {
    super(message);
    this.status = status;
  }
}

let askForKey = null; // (reason) → Promise of a key, or of null if none is given
let asked = null; // the promise of a key while the user types it
let notify = () => {};
let key = storage()?.getItem("lsr-key") ?? null;

function storage() {
  try {
    return sessionStorage;
  } catch {
    return null; // storage is switched off: the key lasts as long as the page
  }
}

/** Set the function that asks for a key, and the one that shows messages about waiting. */
export function connect(asks, notifies) {
  askForKey = asks;
  notify = notifies;
}

export const hasKey = () => key !== null;

export function setKey(value) {
  key = value;
  if (value === null) storage()?.removeItem("lsr-key");
  else storage()?.setItem("lsr-key", value);
}

/**
 * The answer of the service to a path relative to the page; with a body, POST.
 *
 * Throws ServiceError, or the DOMException "AbortError" of `signal`.
 */
export async function call(path, body = null, signal = null) {
  let used = key;
  let response = await send(path, body, signal);
  if (response.status === 429 || response.status === 503) {
    const { message } = await problem(response);
    const seconds = Math.min(LONGEST_WAIT, Number(response.headers.get("Retry-After")) || 1);
    notify(`${message} Trying again in ${seconds} s.`);
    try {
      await delay(1000 * seconds, signal);
      response = await send(path, body, signal);
    } finally {
      notify("");
    }
  }
  while (response.status === 401) {
    const error = await problem(response);
    if (key === used) {
      // All calls that wait for the key share one question.
      asked ??= askForKey(used === null ? "" : error.message).finally(() => (asked = null));
      const given = await asked;
      if (given === null) throw error;
      setKey(given);
    }
    used = key;
    response = await send(path, body, signal);
  }
  if (!response.ok) throw await problem(response);
  return JSON.parse(await response.text(), exact);
}

/** An integer too large for a JavaScript number, as its digits where the browser has them. */
const exact = (_, value, context) =>
  Number.isInteger(value) && !Number.isSafeInteger(value) ? (context?.source ?? value) : value;

async function send(path, body, signal) {
  const headers = {};
  if (key !== null) headers.Authorization = `Bearer ${key}`;
  if (body !== null) headers["Content-Type"] = "application/json";
  try {
    return await fetch(path, {
      method: body === null ? "GET" : "POST",
      headers,
      body: body === null ? null : JSON.stringify(body),
      signal,
      cache: "no-store",
      credentials: "omit",
    });
  } catch (error) {
    if (error.name === "AbortError") throw error;
    throw new ServiceError(0, "The service does not answer. It may be restarting.");
  }
}

async function problem(response) {
  let message = `The service answered ${response.status}.`;
  try {
    const { error } = await response.json();
    if (error) message = sentence(error);
  } catch {
    // A proxy answered in place of the service: there is only its status to show.
  }
  return new ServiceError(response.status, message);
}

const sentence = (text) => (/[.!?…]$/.test(text) ? text : `${text}.`);

function delay(milliseconds, signal) {
  return new Promise((resolve, reject) => {
    const timer = setTimeout(resolve, milliseconds);
    signal?.addEventListener("abort", () => {
      clearTimeout(timer);
      reject(signal.reason);
    });
  });
}

// Calls of the service: the key, the one retry when it is busy, errors as sentences.

const LONGEST_WAIT = 10; // seconds

export class ServiceError extends Error {
  constructor(status, message) {
    super(message);
    this.status = status;
  }
}

let askForKey = null; // (reason) → Promise of a key, or of null if none is given
let asked = null; // its promise while somebody types
let told = () => {};
let key = storage()?.getItem("lsr-key") ?? null;

function storage() {
  try {
    return sessionStorage;
  } catch {
    return null; // switched off: the key lasts as long as the page
  }
}

/** Set what asks for a key, and what is told of waiting and of keys. */
export function connect(asks, tells) {
  askForKey = asks;
  told = tells;
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
    told(`${message} Trying again in ${seconds} s.`);
    try {
      await delay(1000 * seconds, signal);
      response = await send(path, body, signal);
    } finally {
      told("");
    }
  }
  while (response.status === 401) {
    const error = await problem(response);
    if (key === used) {
      // One question for all calls that wait for the key.
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

/** An integer that no JavaScript number holds as its digits, where the browser shows these. */
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
    // Something between the service and this page answered in its place: its status has to do.
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

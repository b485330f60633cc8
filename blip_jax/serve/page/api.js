// Asking the service.

let token = sessionStorage.getItem("token") || "";

export class Failure extends Error {}

async function askForToken() {
  const dialog = document.querySelector("#token-dialog");
  if (!dialog.open) dialog.showModal();
  await new Promise((done) => dialog.addEventListener("close", done, { once: true }));
  token = document.querySelector("#token").value.trim();
  sessionStorage.setItem("token", token);
}

async function call(path, options) {
  const headers = token ? { authorization: `Bearer ${token}` } : {};
  try {
    return await fetch(path, { ...options, headers });
  } catch {
    throw new Failure("The service cannot be reached.");
  }
}

// JSON of a path; asks for the token where one is needed, and waits where the queue is full.
export async function ask(path, options = {}) {
  for (let attempt = 0; ; attempt++) {
    const response = await call(path, options);
    if (response.status === 401 && attempt < 3) {
      await askForToken();
    } else if (response.status === 429 && attempt < 5) {
      const seconds = Number(response.headers.get("retry-after")) || 1;
      await new Promise((done) => setTimeout(done, 1000 * seconds));
    } else {
      const body = await response.json().catch(() => ({}));
      if (response.ok) return body;
      throw new Failure(body.error?.message || `The service answered ${response.status}.`);
    }
  }
}

// A form with a picture and fields; lists become repeated fields, empty ones are left out.
export function post(path, picture, fields) {
  const body = new FormData();
  body.append("image", picture);
  for (const [name, value] of Object.entries(fields)) {
    for (const one of [value].flat()) if (one !== "" && one != null) body.append(name, one);
  }
  return ask(path, { method: "POST", body });
}

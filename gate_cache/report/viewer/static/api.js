// Questions to the server. Every answer is JSON; `problem` says what the store or data set lacks.

async function answer(response) {
  if (!response.ok) return { problem: (await response.text()).trim() };
  return response.json();
}

export async function get(route, asked = {}, signal) {
  const query = new URLSearchParams(asked).toString();
  return answer(await fetch(`api/${route}?${query}`, { signal }));
}

export async function post(route, asked, signal) {
  const headers = { "Content-Type": "application/json" };
  return answer(await fetch(`api/${route}`, {
    method: "POST", headers, body: JSON.stringify(asked), signal,
  }));
}

// Work of which only the newest counts: starting it aborts what was under way.
export class Latest {
  #under = null;

  async run(work) {
    this.stop();
    const mine = this.#under = new AbortController();
    try {
      await work(mine.signal);
    } catch (error) {
      if (error.name !== "AbortError") throw error;
    }
  }

  stop() {
    this.#under?.abort();
  }
}

export function picture(id, kind = "picture") {
  return `${kind}?${new URLSearchParams({ id })}`;
}

// Questions to the server. Every answer is JSON; `problem` says what the store or data set lacks.

async function ask(route, options) {
  try {
    const response = await fetch(route, options);
    if (!response.ok) return { problem: (await response.text()).trim() };
    return await response.json();
  } catch (error) {
    if (error.name === "AbortError") throw error;
    return { problem: "gate-cache view does not answer; was it ended?" };
  }
}

export function get(route, asked = {}, signal = undefined) {
  return ask(`api/${route}?${new URLSearchParams(asked)}`, { signal });
}

export function post(route, asked, signal = undefined) {
  const headers = { "Content-Type": "application/json" };
  return ask(`api/${route}`, { method: "POST", headers, body: JSON.stringify(asked), signal });
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

// Node 18 or newer (in a browser, take crypto.randomUUID): one key for all tries of one payment.
import { randomUUID } from "node:crypto";

export async function pay(url, payment, { tries = 3, waitMs = 500 } = {}) {
  const key = randomUUID(); // made once, before the first try
  let problem;
  for (let attempt = 1; attempt <= tries; attempt += 1) {
    let pauseMs = waitMs * 2 ** (attempt - 1) * (0.5 + Math.random());
    try {
      const response = await fetch(url, {
        method: "POST",
        headers: { "content-type": "application/json", "idempotency-key": key },
        body: JSON.stringify(payment),
      });
      if (response.ok) return await response.json();
      problem = new Error(`HTTP ${response.status}: ${await response.text()}`);
      // Come back where the server says when, or failed; anything else is the answer.
      const after = Number(response.headers.get("retry-after"));
      if (!after && response.status < 500) throw Object.assign(problem, { final: true });
      if (after) pauseMs = after * 1000;
    } catch (error) {
      if (error.final) throw error;
      problem = error; // no answer: it may have been carried out, and the same key finds out
    }
    if (attempt < tries) await new Promise((resolve) => setTimeout(resolve, pauseMs));
  }
  throw problem;
}

if (process.argv[2]) console.log(JSON.stringify(await pay(process.argv[2], { amount: 100 })));

// A program in TypeScript that must compile, and lines that must not.
import { ApiError, Client } from "./src/turnkeeper.js";

export async function talk(): Promise<string> {
  const client = new Client("https://turnkeeper.example.com", "key", { via: "sse", policy: { tries: 2 } });
  const session = await client.createSession({ user: "ada", title: "A walk" });
  const turn = await client.createTurn(session.id, "Hello", { multitask_strategy: "enqueue", idempotencyKey: "k" });
  for await (const event of client.streamTurn(turn, { after: 0 })) {
    if (event.type === "content_delta") console.log(event.delta.length);
    if (event.type === "done") console.log(event.cost_usd, event.usage.output_tokens);
    // @ts-expect-error -- a gap has no text
    if (event.type === "gap") console.log(event.delta);
  }
  for await (const message of client.every((page) => client.listMessages(session.id, page))) console.log(message.role);
  // @ts-expect-error -- there is no such strategy
  await client.createTurn(session.id, "Hello", { multitask_strategy: "hope" });
  // @ts-expect-error -- money is text
  const cost: number = turn.cost_usd;
  try {
    return (await client.ask("Hello", { sessionId: session.id })).text + cost;
  } catch (error) {
    if (error instanceof ApiError) return error.code;
    throw error;
  }
}

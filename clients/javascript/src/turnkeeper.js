/**
 * Client of Turnkeeper: LLM chat turns that survive lost connections, in browsers and in Node.
 *
 *     import { Client } from "turnkeeper";
 *     const answer = await new Client("http://127.0.0.1:8080", key).ask("What is a turn?");
 */

export { Client } from "./client.js";
export {
  ApiError,
  ConnectionFailedError,
  ProtocolError,
  StreamLostError,
  TextMismatchError,
  TimeLimitError,
  TurnEndedError,
  TurnkeeperError,
} from "./errors.js";
export { DEFAULT_POLICY } from "./retry.js";
export { Stream } from "./stream.js";

export { Client } from "./client.js";
export { DEFAULT_POLICY } from "./retry.js";
export { Stream } from "./stream.js";
export { ApiError, ConnectionFailedError, ProtocolError, StreamLostError, TextMismatchError, TimeLimitError, TurnEndedError, TurnkeeperError } from "./errors.js";

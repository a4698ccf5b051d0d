/** The service that a test was given, and clients of it. */

import { Client } from "../src/turnkeeper.js";
import { openSocket } from "./websocket.js";

/** Comes back soon, and as long as a loaded machine may need. */
const EAGER = { firstPauseMs: 50, longestPauseMs: 300, reconnectMs: 90_000 };

export const URL_OF_SERVICE = process.env.TURNKEEPER_URL;
export const KEY = process.env.TURNKEEPER_KEY;

export const client = (options = {}) => new Client(URL_OF_SERVICE, KEY, { policy: EAGER, openSocket, ...options });
